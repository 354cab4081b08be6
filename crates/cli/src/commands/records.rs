#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command { X }
pub(crate) async fn run(_: Command, _: &crate::paths::Paths) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("placeholder") }
