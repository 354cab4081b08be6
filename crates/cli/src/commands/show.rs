#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) async fn run(_: Args, _: &crate::paths::Paths) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("placeholder") }
