//! The flag of every command that talks to a running broker.

use crate::client::Client;

use super::failure::Usage;

#[derive(clap::Args, Debug, Clone)]
pub struct Connect {
    /// The broker's HTTP address
    #[arg(long, value_name = "URL", env = "ONELOG_SERVER", default_value = "http://127.0.0.1:7070")]
    pub server: String,
}

impl Connect {
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.server).map_err(|wrong| Usage(wrong.to_string()).into())
    }
}
