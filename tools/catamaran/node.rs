//! `init` and `serve`: one node.

use core::fmt;
use std::io;
use std::panic;
use std::path::Path;
use std::process;
use std::sync::{Arc, OnceLock};
use std::thread;

use catamaran::config::{Config, Profile};
use catamaran::runtime::{self, Drainer, EventKind, Node, NodeConfig};
use serde_json::json;

use crate::args::{InitArguments, ServeArguments};
use crate::failure::Failure;
use crate::terminal::{self, Level};

/// Formats the data directory.
pub(crate) fn init(arguments: &InitArguments) -> Result<(), Failure> {
    let config = load(&arguments.config, arguments.profile.as_deref())?;
    let node = runtime::format(&NodeConfig::from(&config))?;
    let directory = config.data_dir.display();
    let result = if arguments.json {
        json!({
            "data_dir": directory.to_string(),
            "cluster_id": node.cluster_id,
            "node_id": node.node_id,
            "node_uuid": node.node_uuid,
            "shards": node.shards,
        })
        .to_string()
    } else {
        format!(
            "formatted {directory} for node {} of cluster {} with {} shard(s), node uuid {}",
            node.node_id, node.cluster_id, node.shards, node.node_uuid
        )
    };
    // The directory is formatted whether or not anybody reads this.
    let _ = terminal::result(result);
    Ok(())
}

/// Runs the node until it is told to stop, or cannot go on.
pub(crate) fn serve(arguments: &ServeArguments) -> Result<(), Failure> {
    end_with_any_thread();
    let mut config = load(&arguments.config, arguments.profile.as_deref())?;
    config.allow_buffered |= arguments.allow_buffered;
    // Before any other thread exists, so that all of them leave the signals to this one.
    let drainer: Arc<OnceLock<Drainer>> = Arc::default();
    let told = Arc::clone(&drainer);
    let stop = move |why: &str| {
        terminal::event(Level::Info, "stopping", &[("why", &why)]);
        match told.get() {
            Some(drainer) => drainer.drain(),
            // Still reading its log: nothing was promised that needs an orderly end.
            None => process::exit(0),
        }
    };
    let on_signal = stop.clone();
    let no_thread = |error: io::Error| {
        Failure::environment(format!("cannot start a thread: {error}: check the limits"))
    };
    runtime::on_termination(move || on_signal("signal")).map_err(no_thread)?;
    if arguments.until_stdin_closes {
        let wait = move || {
            // Whatever comes is not for us; an error is an end as well.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            stop("stdin closed");
        };
        thread::Builder::new().name("stdin".to_owned()).spawn(wait).map_err(no_thread)?;
    }
    announce(&config);
    let node = Node::start(NodeConfig::from(&config))?;
    let facts: [(&str, &dyn fmt::Display); 2] = [("boot", &node.boot()), ("uuid", &node.uuid())];
    terminal::event(Level::Info, "started", &facts);
    assert!(drainer.set(node.drainer()).is_ok(), "set here only");
    for event in node.events() {
        let level = if event.kind.is_warning() { Level::Warn } else { Level::Info };
        terminal::log(level, &event.to_string());
        if matches!(event.kind, EventKind::Halted { .. }) {
            // The other shards would go on telling; joining ends them.
            break;
        }
    }
    node.join()?;
    terminal::event(Level::Info, "stopped", &[]);
    Ok(())
}

/// A panic in one thread ends the process, as release builds do by themselves: a node of which a
/// shard is dead helps nobody.
fn end_with_any_thread() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::abort();
    }));
}

fn announce(config: &Config) {
    let own = config.own();
    let data_dir = config.data_dir.display();
    let facts: [(&str, &dyn fmt::Display); 8] = [
        ("version", &env!("CARGO_PKG_VERSION")),
        ("cluster", &config.cluster_id),
        ("node", &config.node_id),
        ("data_dir", &data_dir),
        ("bind", &config.bind),
        ("client_port", &own.client_port),
        ("peer_port", &own.peer_port),
        ("shards", &config.shards),
    ];
    terminal::event(Level::Info, "starting", &facts);
    if config.allow_buffered {
        let price: [(&str, &dyn fmt::Display); 1] =
            [("price", &"acknowledged records may be lost with the machine's memory")];
        terminal::event(Level::Warn, "buffered_files_allowed", &price);
    }
}

/// Reads a configuration file over a profile.
pub(crate) fn load(path: &Path, profile: Option<&str>) -> Result<Config, Failure> {
    let profile = profile.map(Profile::find).transpose()?;
    Ok(Config::load(path, profile)?)
}
