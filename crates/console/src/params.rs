//! The parameters of a query: each at most once, none unknown, so that a misspelt filter never widens an
//! answer.

use axum::http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::answer::ApiError;
use crate::limits::QUERY_BYTES_MAX;

/// What is escaped in a query: all but unreserved characters (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parameters that are not taken yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query of a request (`application/x-www-form-urlencoded`).
    pub(crate) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let query = uri.query().unwrap_or_default();
        if query.len() > QUERY_BYTES_MAX {
            let message = format!("a query has at most {QUERY_BYTES_MAX} bytes");
            return Err(ApiError::unreadable(message));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::parameter(&name, "it is there twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// Takes a parameter; one without a value is as good as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(place).1).filter(|value| !value.is_empty())
    }

    /// Gives the rest.
    pub(crate) fn into_rest(self) -> Vec<(String, String)> {
        self.0
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(unknown(&name)),
            None => Ok(()),
        }
    }
}

/// Refuses a parameter that the route does not have.
pub(crate) fn unknown(name: &str) -> ApiError {
    ApiError::parameter(name, "there is no such parameter here")
}

/// Writes a query.
pub(crate) fn query<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pair = |(name, value)| {
        format!("{}={}", utf8_percent_encode(name, ESCAPED), utf8_percent_encode(value, ESCAPED))
    };
    pairs.map(pair).collect::<Vec<_>>().join("&")
}

fn decode(text: &str) -> Result<String, ApiError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(String::from).map_err(|_| ApiError::unreadable("the query is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Result<Params, ApiError> {
        Params::of(&format!("/api/v1/records?{query}").parse().unwrap())
    }

    #[test]
    fn queries() {
        let mut found = params("agent=bot&tool=fs%2Fread+file&&to=&from").unwrap();
        assert_eq!(found.take("tool").as_deref(), Some("fs/read file"));
        assert_eq!((found.take("to"), found.take("from"), found.take("kind")), (None, None, None));
        assert_eq!(found.take("agent").as_deref(), Some("bot"));
        assert!(found.finish().is_ok());
        for refused in ["agent=a&agent=b", "agent=%ff", &"x".repeat(QUERY_BYTES_MAX + 1)] {
            assert!(params(refused).is_err(), "{refused}");
        }
        assert!(params("form=1").unwrap().finish().is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let pairs = [("tool", "fs/a b&c=d+e%20ü"), ("to", "2026-03-15T03:00:00+01:00")];
        let mut read = params(&query(pairs.into_iter())).unwrap();
        for (name, value) in pairs {
            assert_eq!(read.take(name).as_deref(), Some(value));
        }
    }
}
