//! Which servers an endpoint offers, and how it names what they have.

use std::borrow::Cow;

use countersign_model::ServerName;

use super::names;

/// An endpoint of the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/mcp`: all servers, with prefixed names.
    All,
    /// `/mcp/<server>`: one server, with its own names.
    One(ServerName),
}

impl Route {
    /// Returns the name that this endpoint's clients see for a tool or prompt.
    pub fn outer_name<'a>(&self, server: &ServerName, name: &'a str) -> Cow<'a, str> {
        match self {
            Self::One(_) => name.into(),
            Self::All => names::federate(server, name).into(),
        }
    }

    /// Returns the URI that this endpoint's clients see for a resource.
    pub fn outer_uri<'a>(&self, server: &ServerName, uri: &'a str) -> Cow<'a, str> {
        match self {
            Self::One(_) => uri.into(),
            Self::All => names::federate_uri(server, uri).into(),
        }
    }

    /// Splits a name that a client sent into its server and the rest.
    pub fn inner_name<'a>(&self, name: &'a str) -> Option<(ServerName, &'a str)> {
        match self {
            Self::One(server) => Some((server.clone(), name)),
            Self::All => names::split(name),
        }
    }

    /// Splits a URI that a client sent into its server and the server's own URI.
    pub fn inner_uri<'a>(&self, uri: &'a str) -> Option<(ServerName, &'a str)> {
        match self {
            Self::One(server) => Some((server.clone(), uri)),
            Self::All => names::split_uri(uri),
        }
    }
}
