//! `countersign.toml`: every key, its default and its rule.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_gateway::GatewayConfig;
use countersign_gateway::upstream::{ClientIdentity, StdioCommand, Transport, UpstreamConfig};
use countersign_model::{AgentName, Environment, ServerName, TenantId};
use countersign_store::{Database, Retention};
use serde::Deserialize;

use crate::paths::Paths;

/// Variables of the gateway's own environment that stdio servers get; nothing else is inherited.
const INHERITED: [&str; 7] = ["PATH", "HOME", "LANG", "TMPDIR", "USER", "SYSTEMROOT", "APPDATA"];
/// Keys of `_meta` that every upstream gets, so that its own log can be joined with the ledger.
const META: [&str; 2] = ["dev.countersign/evaluation-id", "dev.countersign/idempotency-key"];

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The tenant whose log and policy this is; `default` if absent.
    pub(crate) tenant: Option<String>,
    /// The log's origin, a URL without scheme that names it for ever; `localhost/<tenant>` if absent.
    pub(crate) origin: Option<String>,
    /// Where the ledger's tables are.
    pub(crate) store: StoreTable,
    /// Who signs the log.
    pub(crate) signer: SignerTable,
    /// Where agents call.
    pub(crate) data_plane: DataPlane,
    /// Where people and the command line call.
    pub(crate) control_plane: ControlPlane,
    /// How long private fields are kept.
    pub(crate) retention: RetentionTable,
    /// Who outside vouches for the log's checkpoints.
    pub(crate) anchors: Anchors,
    /// The servers behind the gateway, by name.
    pub(crate) upstreams: BTreeMap<ServerName, Upstream>,
}

/// `[store]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreTable {
    /// URLs of PostgreSQL servers of which one is the primary; the file in the data folder if empty.
    pub(crate) url: Vec<String>,
    /// The name of this gateway among those that share the log; each needs its own.
    pub(crate) replica: String,
}

impl Default for StoreTable {
    fn default() -> Self {
        Self { url: Vec::new(), replica: "g1".into() }
    }
}

/// Longest name of a gateway, in bytes: it stands in every leaf.
const REPLICA_BYTES_MAX: usize = 32;

impl StoreTable {
    /// Returns where the tables are.
    pub(crate) fn database(&self) -> Database {
        if self.url.is_empty() { Database::Sqlite } else { Database::Postgres(self.url.clone()) }
    }

    fn check(&self) -> anyhow::Result<()> {
        let Self { url, replica } = self;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if replica.is_empty() || replica.len() > REPLICA_BYTES_MAX || !replica.bytes().all(fits) {
            bail!("store.replica has 1 to {REPLICA_BYTES_MAX} lower-case letters, digits or `-`");
        }
        if !url.iter().all(|url| url.starts_with("postgres://") || url.starts_with("postgresql://"))
        {
            bail!("store.url is a list of URLs like `postgres://countersign@db1:5432/countersign`");
        }
        Ok(())
    }
}

/// `[signer]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SignerTable {
    /// The socket of `countersign signer`; the gateway itself has the key and signs if absent.
    pub(crate) socket: Option<PathBuf>,
}

impl SignerTable {
    fn check(&self) -> anyhow::Result<()> {
        if self.socket.as_ref().is_some_and(|socket| !socket.is_absolute()) {
            bail!("signer.socket is an absolute path like `/run/countersign/signer.sock`");
        }
        Ok(())
    }
}

/// `[retention]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetentionTable {
    /// The days after which the private fields of a record are purged.
    pub(crate) sections_days: SectionsDays,
}

/// Days within their bounds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "u32")]
pub(crate) struct SectionsDays(pub(crate) Retention);

impl TryFrom<u32> for SectionsDays {
    type Error = String;

    fn try_from(days: u32) -> Result<Self, String> {
        let bounds = |error| format!("retention.sections_days: {error}");
        Retention::new(days).map(Self).map_err(bounds)
    }
}

/// `[data_plane]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DataPlane {
    /// Address and port.
    pub(crate) listen: String,
    /// Host names that clients may use, besides loopback.
    pub(crate) hosts: Vec<String>,
    /// Origins of web pages that may call, besides loopback.
    pub(crate) origins: Vec<String>,
    /// For tests on loopback: calls without a credential act as this agent.
    pub(crate) fixed_agent: Option<AgentName>,
}

impl Default for DataPlane {
    fn default() -> Self {
        let listen = "127.0.0.1:7700".into();
        Self { listen, hosts: Vec::new(), origins: Vec::new(), fixed_agent: None }
    }
}

/// `[control_plane]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ControlPlane {
    /// Address and port.
    pub(crate) listen: String,
    /// Host names that clients may use, besides loopback.
    pub(crate) hosts: Vec<String>,
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7701".into(), hosts: Vec::new() }
    }
}

/// `[anchors]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Anchors {
    /// A C2SP tlog-policy file with the witnesses to ask; none are asked if absent.
    pub(crate) policy: Option<PathBuf>,
    /// The pause between two rounds of asking witnesses.
    pub(crate) interval: Pause,
    /// The age of the newest anchored checkpoint above which the log file says so.
    pub(crate) max_unanchored_age: Option<Pause>,
    /// The same above which calls are refused; they never are if absent.
    pub(crate) refuse_unanchored_after: Option<Pause>,
    /// The authority that stamps checkpoints with the time.
    pub(crate) timestamp: Option<Timestamp>,
    /// The Git remote that checkpoints are pushed to.
    pub(crate) git: Option<Git>,
    /// The object store that the log is copied to.
    pub(crate) object_store: Option<Objects>,
}

impl Default for Anchors {
    fn default() -> Self {
        Self {
            policy: None,
            interval: each_minute(),
            max_unanchored_age: None,
            refuse_unanchored_after: None,
            timestamp: None,
            git: None,
            object_store: None,
        }
    }
}

/// `[anchors.timestamp]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timestamp {
    /// Where the RFC 3161 authority answers.
    pub(crate) url: String,
    /// A PEM file with the roots that its certificate leads to.
    pub(crate) roots: PathBuf,
    /// The pause between two timestamps.
    #[serde(default = "hourly")]
    pub(crate) interval: Pause,
}

/// `[anchors.git]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Git {
    /// The repository, as `git push` takes it.
    pub(crate) remote: String,
    /// The branch, which is made if it is not there.
    #[serde(default = "main_branch")]
    pub(crate) branch: String,
    /// The pause between two commits.
    #[serde(default = "daily")]
    pub(crate) interval: Pause,
}

/// `[anchors.object_store]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Objects {
    /// `s3://bucket/prefix`, or `file:///folder`.
    pub(crate) url: String,
    /// Where an S3-compatible store answers that is not of AWS.
    pub(crate) endpoint: Option<String>,
    /// The pause between two copies.
    #[serde(default = "each_minute")]
    pub(crate) interval: Pause,
}

fn each_minute() -> Pause {
    Pause(Duration::from_secs(60))
}

fn hourly() -> Pause {
    Pause(Duration::from_secs(3_600))
}

fn daily() -> Pause {
    Pause(Duration::from_secs(86_400))
}

fn main_branch() -> String {
    "main".into()
}

/// A time span of at least a second, written as `90s`, `10m` or `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Pause(pub(crate) Duration);

impl TryFrom<String> for Pause {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let seconds = [("s", 1), ("m", 60), ("h", 3_600)].into_iter().find_map(|(unit, factor)| {
            text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(factor)
        });
        match seconds {
            Some(seconds @ 1..) => Ok(Self(Duration::from_secs(seconds))),
            _ => Err(format!("`{text}` is no time span like `90s`, `10m` or `2h`")),
        }
    }
}

/// `[upstreams.<name>]`: either `url` or `command`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Upstream {
    /// The endpoint of a Streamable HTTP server.
    pub(crate) url: Option<String>,
    /// Headers of every request to it, for example its credential.
    pub(crate) headers: BTreeMap<String, String>,
    /// The command line of a stdio server.
    pub(crate) command: Vec<String>,
    /// Its environment, besides a few harmless variables.
    pub(crate) env: BTreeMap<String, String>,
    /// Its working directory.
    pub(crate) cwd: Option<PathBuf>,
    /// The environment that the server belongs to; `prod` if absent.
    pub(crate) environment: Option<Environment>,
    /// Longest time of one call, in milliseconds.
    pub(crate) timeout_ms: Option<u64>,
    /// Size limit of one result, in bytes.
    pub(crate) result_bytes_max: Option<usize>,
    /// Further keys of `_meta` that go on to this server; a trailing `*` stands for any rest.
    pub(crate) meta_allow: Vec<String>,
}

impl Config {
    /// Reads the file; a missing file is all defaults.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let config: Self =
            toml::from_str(&text).with_context(|| format!("{} is not valid", path.display()))?;
        let sound = config.store.check().and_then(|()| config.signer.check());
        sound.with_context(|| format!("{} is not valid", path.display()))?;
        Ok(config)
    }

    /// Returns the tenant.
    pub(crate) fn tenant(&self) -> TenantId {
        TenantId(self.tenant.clone().unwrap_or_else(|| "default".into()))
    }

    /// Returns the log's origin.
    pub(crate) fn origin(&self) -> String {
        self.origin.clone().unwrap_or_else(|| format!("localhost/{}", self.tenant()))
    }

    /// Gives the data plane its configuration.
    pub(crate) fn gateway(&self, paths: &Paths) -> anyhow::Result<GatewayConfig> {
        let address = self.data_plane.listen.parse::<SocketAddr>();
        let loopback = address.is_ok_and(|address| address.ip().is_loopback());
        if self.data_plane.fixed_agent.is_some() && !loopback {
            bail!("data_plane.fixed_agent is for tests: data_plane.listen must be on loopback");
        }
        let upstreams = self.upstreams.iter().map(|(name, upstream)| upstream.config(name));
        let environments = self.upstreams.iter().map(|(name, upstream)| {
            Ok((name.clone(), upstream.environment.clone().map_or_else(default_environment, Ok)?))
        });
        Ok(GatewayConfig {
            tenant: self.tenant(),
            policies: paths.policies.clone(),
            pins: paths.pins(),
            environments: environments.collect::<anyhow::Result<_>>()?,
            hosts: self.data_plane.hosts.clone(),
            origins: self.data_plane.origins.clone(),
            fixed_agent: self.data_plane.fixed_agent.clone(),
            upstreams: upstreams.collect::<anyhow::Result<_>>()?,
            identity: identity(),
        })
    }
}

/// How the gateway introduces itself to clients and servers.
pub(crate) fn identity() -> ClientIdentity {
    ClientIdentity { name: "countersign".into(), version: env!("CARGO_PKG_VERSION").into() }
}

/// The environment of servers that name none.
pub(crate) fn default_environment() -> anyhow::Result<Environment> {
    "prod".parse().context("the default environment has a bad name")
}

impl Upstream {
    /// Gives the connection its configuration.
    pub(crate) fn config(&self, name: &ServerName) -> anyhow::Result<UpstreamConfig> {
        let transport = match (&self.url, self.command.is_empty()) {
            (Some(url), true) => Transport::Http {
                url: url.parse().with_context(|| format!("upstreams.{name}.url is no URL"))?,
                headers: self
                    .headers
                    .iter()
                    .map(|(key, value)| Ok((key.parse()?, value.parse()?)))
                    .collect::<anyhow::Result<_>>()
                    .with_context(|| format!("upstreams.{name}.headers has an invalid header"))?,
            },
            (None, false) => Transport::Stdio(StdioCommand {
                command: self.command.clone(),
                env: with_inherited(&self.env),
                cwd: self.cwd.clone(),
            }),
            _ => bail!("upstreams.{name} needs either `url` or `command`"),
        };
        let mut config = UpstreamConfig::new(name.clone(), transport);
        if let Some(timeout) = self.timeout_ms {
            config.request_timeout = Duration::from_millis(timeout);
        }
        if let Some(bytes) = self.result_bytes_max {
            config.result_bytes_max = bytes;
        }
        config.meta_allow = META.iter().map(ToString::to_string).collect();
        config.meta_allow.extend(self.meta_allow.iter().cloned());
        Ok(config)
    }
}

/// Adds the harmless variables of our own environment to a stdio server's.
#[expect(clippy::disallowed_methods, reason = "the command line program may read the environment")]
fn with_inherited(own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let inherited =
        INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    inherited.chain(own.iter().map(|(key, value)| (key.clone(), value.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_named() {
        let error = toml::from_str::<Config>("[data_plane]\nlisen = \"x\"").unwrap_err();
        assert!(error.to_string().contains("lisen"), "{error}");
    }

    #[test]
    fn r_156_a_retention_below_its_floor_is_refused_with_its_rule() {
        let read = |days: &str| {
            toml::from_str::<Config>(&format!("[retention]\nsections_days = {days}"))
                .map(|config| config.retention.sections_days.0.sections_days())
                .map_err(|error| error.message().to_owned())
        };
        let said = read("90").unwrap_err();
        for part in ["retention.sections_days", "90 days", "at least 365", "BELOW_FLOOR"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(read("-1").is_err() && read("0").is_err() && read("40000").is_err());
        assert_eq!((read("365"), read("2192")), (Ok(365), Ok(2192)));
        assert_eq!(Config::default().retention.sections_days.0.sections_days(), 550);
    }

    #[test]
    fn the_reference_names_every_key() {
        let reference = include_str!("../../../docs/reference/configuration.md");
        // A key that does not exist makes the parser list those that do.
        for (section, name) in [
            ("", "the file"),
            ("[data_plane]\n", "data_plane"),
            ("[control_plane]\n", "control_plane"),
            ("[anchors]\n", "anchors"),
            ("[anchors.timestamp]\n", "anchors.timestamp"),
            ("[anchors.git]\n", "anchors.git"),
            ("[anchors.object_store]\n", "anchors.object_store"),
            ("[upstreams.x]\n", "upstreams"),
            ("[signer]\n", "signer"),
            ("[retention]\n", "retention"),
        ] {
            let error = toml::from_str::<Config>(&format!("{section}nothing = 1")).unwrap_err();
            let message = error.message().to_owned();
            let (_, expected) = message
                .split_once("expected one of ")
                .or_else(|| message.split_once("expected "))
                .unwrap();
            let keys: Vec<_> = expected
                .split(['`', ',', ' '])
                .filter(|key| !key.is_empty() && *key != "or")
                .collect();
            assert!(!keys.is_empty(), "{name}: {message}");
            for key in keys {
                assert!(
                    reference.contains(&format!("`{key}`"))
                        || reference.contains(&format!("[{key}"))
                        || reference.contains(&format!("[{name}.{key}]")),
                    "{name}: `{key}` is not in the reference"
                );
            }
        }
    }

    #[test]
    fn time_spans_have_a_unit() {
        for (text, seconds) in
            [("1s", Some(1)), ("90s", Some(90)), ("10m", Some(600)), ("2h", Some(7_200))]
                .into_iter()
                .chain(
                    ["", "60", "0s", "-1s", "1d", "s", "99999999999999999h"].map(|bad| (bad, None)),
                )
        {
            let read = Pause::try_from(text.to_owned()).ok();
            assert_eq!(read.map(|pause| pause.0.as_secs()), seconds, "{text}");
        }
    }

    #[test]
    fn a_fixed_agent_is_for_loopback_only() {
        let paths = Paths::new(Path::new("."));
        for (listen, ok) in [("127.0.0.1:0", true), ("[::1]:0", true), ("0.0.0.0:7700", false)] {
            let text = format!("[data_plane]\nlisten = \"{listen}\"\nfixed_agent = \"bot\"");
            let config: Config = toml::from_str(&text).unwrap();
            assert_eq!(config.gateway(&paths).is_ok(), ok, "{listen}");
        }
    }

    #[test]
    fn an_upstream_is_either_http_or_stdio() {
        let name: ServerName = "crm".parse().unwrap();
        let url = Some("http://127.0.0.1:1/mcp".to_owned());
        let command = vec!["server".to_owned()];
        for (upstream, ok) in [
            (Upstream { url: url.clone(), ..Upstream::default() }, true),
            (Upstream { command: command.clone(), ..Upstream::default() }, true),
            (Upstream::default(), false),
            (Upstream { url, command, ..Upstream::default() }, false),
        ] {
            assert_eq!(upstream.config(&name).is_ok(), ok);
        }
    }
}
