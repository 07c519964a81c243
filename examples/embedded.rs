//! An etcd for tests and development, in any language, with nothing to install: the embedded etcd on a TCP port.
//!
//! `cargo run -p examples --example embedded -- --listen 127.0.0.1:2379`. The first line that it prints is its
//! address. It runs until Ctrl-C, or for as long as `--for` says. Everything is in memory and gone with it.

use clap::Parser;
use etcd_rules::embedded::{EmbeddedEtcd, VERSION};
use std::net::SocketAddr;
use std::time::Duration;

/// An etcd in memory, for tests and development. It keeps nothing.
#[derive(Parser)]
struct Options {
    /// The address to listen on; port 0 takes a free one. Anybody who reaches it may do everything there.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:2379")]
    listen: SocketAddr,
    /// The URL that clients are told when they ask for the members, if not that of the address
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    /// How many seconds to run
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let mut builder = EmbeddedEtcd::builder().address(options.listen);
    if let Some(url) = options.advertise {
        builder = builder.advertise(url);
    }
    let etcd =
        builder.start().await.map_err(|error| format!("can't listen on {}: {error}", options.listen))?;
    println!("http://{}", etcd.endpoint());
    println!("an etcd in memory, as {VERSION}: gRPC, and JSON below /v3. Stop it with Ctrl-C.");
    let end = async {
        match options.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped?,
        () = end => {}
    }
    Ok(())
}
