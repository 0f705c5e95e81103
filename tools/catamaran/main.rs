//! `catamaran`: formats and runs a node, runs a cluster on this machine, and is the client in a
//! terminal.
//!
//! Here: which subcommand runs, and how a process ends. The arguments and their help are in
//! `args`, everything printed goes through `terminal`, each subcommand has its own file. Does not:
//! know anything about Raft, logs or sockets; that is the library's.

mod args;
mod client;
mod dev;
mod failure;
mod node;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Command::Init(init) => node::init(init),
        Command::Serve(serve) => node::serve(serve),
        Command::Dev(dev) => dev::run(dev),
        Command::Status(status) => client::status(status),
        Command::Append(append) => client::append(append),
        Command::Read(read) => client::read(read),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
