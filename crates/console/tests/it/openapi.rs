//! The description of the API.

use std::path::Path;

use serde_json::{Value, json};

use crate::world::World;

const METHODS: [&str; 2] = ["get", "post"];

/// To write the file anew: `COUNTERSIGN_WRITE_SPEC=1 cargo test -p countersign-console`.
#[tokio::test]
async fn the_description_is_the_one_in_the_repository() {
    let world = World::start().await;
    let served = world.api("GET", "/api/v1/openapi.json", &json!(null)).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/openapi.json");
    if std::env::var_os("COUNTERSIGN_WRITE_SPEC").is_some() {
        std::fs::write(&path, &served.body).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(kept.as_bytes() == served.body, "spec/openapi.json is not what is served");
}

#[tokio::test]
async fn every_route_that_is_described_is_there_and_takes_a_token() {
    let world = World::start().await;
    let api = world.api("GET", "/api/v1/openapi.json", &json!(null)).await.json();
    let paths = api["paths"].as_object().unwrap();
    assert!(paths.len() > 15, "{} paths", paths.len());
    for (path, item) in paths {
        let place = path.replace("{tenant}", "acme").replace(['{', '}'], "");
        for method in METHODS {
            let described: &Value = &item[method];
            let answer = world.with(&method.to_uppercase(), &place, None, "").await;
            assert_eq!(answer.status, 401, "{method} {path}");
            let answer = world.api(&method.to_uppercase(), &place, &json!(null)).await;
            let absent = answer.status == 405
                || answer.json()["error"]["message"] == "there is no such route";
            assert_eq!(absent, described.is_null(), "{method} {path}: {}", answer.status);
            if !described.is_null() {
                assert!(described["summary"].is_string(), "{method} {path}");
            }
        }
    }
    assert_eq!(api["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}
