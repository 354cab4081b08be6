//! Where an installation keeps its files.

use std::path::{Path, PathBuf};

/// The folders and files of one installation.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// The project folder, given by `--dir`.
    pub(crate) root: PathBuf,
    /// `countersign.toml`.
    pub(crate) config: PathBuf,
    /// State: database, keys, published log, pins.
    pub(crate) data: PathBuf,
    /// The policy bundle.
    pub(crate) policies: PathBuf,
}

impl Paths {
    /// Gives the paths below a project folder.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            config: root.join("countersign.toml"),
            data: root.join("countersign-data"),
            policies: root.join("policies"),
        }
    }

    /// The published log: a static tlog-tiles directory.
    pub(crate) fn log(&self) -> PathBuf {
        self.data.join("log")
    }

    /// Tool definitions pinned at first sight.
    pub(crate) fn pins(&self) -> PathBuf {
        self.data.join("pins")
    }

    /// Where a running gateway leaves its addresses.
    pub(crate) fn serve(&self) -> PathBuf {
        self.data.join("serve.json")
    }

    /// How the anchors of the gateway fare.
    pub(crate) fn anchors(&self) -> PathBuf {
        self.data.join("anchors.json")
    }

    /// The repository in which commits for a Git remote are made.
    pub(crate) fn anchor_repository(&self) -> PathBuf {
        self.data.join("anchors.git")
    }

    /// The credential of the control plane.
    pub(crate) fn token(&self) -> PathBuf {
        self.data.join("control.token")
    }

    /// The named tokens of the control plane.
    pub(crate) fn tokens(&self) -> PathBuf {
        self.data.join("control-tokens.json")
    }

    /// The keystore.
    pub(crate) fn keys(&self) -> PathBuf {
        self.data.join("keys")
    }
}
