//! Names that people and other programs choose, parsed once at the edge.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Length limit of a server, agent or environment name, in bytes.
pub const SLUG_BYTES_MAX: usize = 64;
/// Length limit of a tool's own name, in bytes (MCP 2025-11-25, server/tools, "Tool Names").
pub const TOOL_NAME_BYTES_MAX: usize = 128;

/// Says why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name has no characters.
    #[error("a {what} must not be empty")]
    Empty {
        /// What was being named.
        what: &'static str,
    },
    /// The name is longer than its limit.
    #[error("a {what} has at most {max} bytes")]
    TooLong {
        /// What was being named.
        what: &'static str,
        /// The limit in bytes.
        max: usize,
    },
    /// The name has a character outside its alphabet.
    #[error("{what} `{name}` may only have {rule}")]
    Alphabet {
        /// What was being named.
        what: &'static str,
        /// The refused name.
        name: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

/// Parses a slug: `[a-z0-9]+(-[a-z0-9]+)*`, at most [`SLUG_BYTES_MAX`] bytes.
fn slug(what: &'static str, name: &str) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > SLUG_BYTES_MAX {
        return Err(NameError::TooLong { what, max: SLUG_BYTES_MAX });
    }
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if name.split('-').all(word) {
        Ok(name.to_owned())
    } else {
        let rule = "lower-case letters, digits and single hyphens between them";
        Err(NameError::Alphabet { what, name: name.to_owned(), rule })
    }
}

macro_rules! slug_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                slug($what, name).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

slug_name! {
    /// The configured name of an upstream server, for example `crm`.
    ServerName, "server name"
}
slug_name! {
    /// The name by which policy speaks of an agent; unique in a tenant and never given twice.
    AgentName, "agent name"
}
slug_name! {
    /// A deployment environment, for example `prod` or `staging`.
    Environment, "environment"
}

/// A tool as policy and records name it: `<server>/<tool>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToolName {
    server: ServerName,
    tool: String,
}

impl ToolName {
    /// Joins a server and the name that this server gives its tool.
    ///
    /// # Errors
    ///
    /// Refuses a tool name that is empty, longer than [`TOOL_NAME_BYTES_MAX`] or has a control
    /// character: servers in the field use spaces and slashes, so nothing else is refused.
    pub fn new(server: ServerName, tool: &str) -> Result<Self, NameError> {
        let what = "tool name";
        if tool.is_empty() {
            return Err(NameError::Empty { what });
        }
        if tool.len() > TOOL_NAME_BYTES_MAX {
            return Err(NameError::TooLong { what, max: TOOL_NAME_BYTES_MAX });
        }
        if tool.chars().any(char::is_control) {
            let rule = "printable characters";
            return Err(NameError::Alphabet { what, name: tool.escape_debug().to_string(), rule });
        }
        Ok(Self { server, tool: tool.to_owned() })
    }

    /// Returns the server that offers the tool.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// Returns the tool's name as its server spells it.
    #[must_use]
    pub fn tool(&self) -> &str {
        &self.tool
    }
}

impl FromStr for ToolName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((server, tool)) = text.split_once('/') else {
            let rule = "the form <server>/<tool>";
            return Err(NameError::Alphabet { what: "tool", name: text.to_owned(), rule });
        };
        Self::new(server.parse()?, tool)
    }
}

impl TryFrom<String> for ToolName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ToolName> for String {
    fn from(name: ToolName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.server, self.tool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        for (input, ok) in [
            ("crm", true),
            ("crm-eu-2", true),
            ("", false),
            ("Crm", false),
            ("crm_eu", false),
            ("-crm", false),
            ("crm--eu", false),
            ("a b", false),
        ] {
            assert_eq!(input.parse::<ServerName>().is_ok(), ok, "{input:?}");
        }
        assert!("a".repeat(SLUG_BYTES_MAX).parse::<AgentName>().is_ok());
        assert!("a".repeat(SLUG_BYTES_MAX + 1).parse::<AgentName>().is_err());
    }

    #[test]
    fn tool_names() {
        for (input, ok) in [
            ("fs/read_file", true),
            ("fs/a/b", true),
            ("fs/", false),
            ("read_file", false),
            ("fs/a\nb", false),
            ("Fs/read", false),
        ] {
            assert_eq!(input.parse::<ToolName>().is_ok(), ok, "{input:?}");
        }
        let name: ToolName = "fs/a/b".parse().unwrap();
        assert_eq!((name.server().as_str(), name.tool()), ("fs", "a/b"));
        assert_eq!(name.to_string(), "fs/a/b");
    }
}
