use std::str::FromStr;

/// The one modern revision known here.
pub(crate) const MODERN_VERSION: &str = "2026-07-28";

/// The legacy revisions, oldest first.
pub(crate) const LEGACY_VERSIONS: [&str; 4] =
    ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// The newest legacy revision, offered when a client asks for an unknown one.
pub(crate) const NEWEST_LEGACY: &str = "2025-11-25";

/// How one request is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2024-11-05 to 2025-11-25: opened by `initialize`.
    Legacy,
    /// 2026-07-28: every request describes itself.
    Modern,
}

/// The eras that a fixture speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EraMode {
    /// Only revisions up to 2025-11-25.
    Legacy,
    /// Only revision 2026-07-28.
    Modern,
    /// Both, decided per request.
    #[default]
    Both,
}

impl EraMode {
    /// Decides the era of a request from what marks it as modern.
    pub(crate) fn classify(self, looks_modern: bool) -> Era {
        match self {
            Self::Legacy => Era::Legacy,
            Self::Modern => Era::Modern,
            Self::Both if looks_modern => Era::Modern,
            Self::Both => Era::Legacy,
        }
    }
}

impl FromStr for EraMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "legacy" => Ok(Self::Legacy),
            "modern" => Ok(Self::Modern),
            "both" => Ok(Self::Both),
            other => Err(format!("unknown era `{other}`, expected legacy, modern or both")),
        }
    }
}
