//! What is wrong with a bundle, and where.

use std::fmt;

use cedar_policy::ffi::DetailedError;
use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The bundle cannot be used.
    Error,
    /// The bundle can be used, but someone should look.
    Warning,
}

/// One finding about a file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The file's path in the bundle.
    pub file: String,
    /// The line, from 1; 0 if the finding is about the whole file.
    pub line: usize,
    /// The column in characters, from 1; 0 if the finding is about the whole file.
    pub column: usize,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    /// Makes an error about a whole file.
    pub(crate) fn error(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            severity: Severity::Error,
            message: message.into(),
            help: None,
        }
    }

    /// Makes a warning about a whole file.
    pub(crate) fn warning(file: &str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, message) }
    }

    /// Makes an error of what Cedar reports about `source`.
    pub(crate) fn cedar(file: &str, source: &str, report: &DetailedError) -> Self {
        let diagnostic = Self { help: report.help.clone(), ..Self::error(file, &report.message) };
        match report.source_locations.first() {
            Some(label) => diagnostic.at(source, label.loc.start),
            None => diagnostic,
        }
    }

    /// Adds what to do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the place: a byte offset in `source`.
    pub(crate) fn at(mut self, source: &str, offset: usize) -> Self {
        let before = source.get(..offset.min(source.len())).unwrap_or(source);
        self.line = before.matches('\n').count() + 1;
        self.column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {severity}: {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}
