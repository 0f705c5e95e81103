//! Layers laid over one another: what each key is, and where that was said.
//!
//! Apart from `layer` because a file may leave keys out and a node may not; apart from
//! `relations` because single values are parsed here, once, into types that prove them.

use std::net::IpAddr;
use std::path::PathBuf;

use super::keys::{self, Key, Rule};
use super::layer::{Layer, Value, Values, printable};
use super::problem::{Fault, Place, Problem};
use crate::model::ClusterId;

/// One `[[nodes]]` entry. A field is `None` if it is wrong or missing, which is reported already.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) id: Option<u16>,
    pub(super) host: Option<String>,
    pub(super) client_port: Option<u16>,
    pub(super) peer_port: Option<u16>,
}

/// Everything that the files say. A field is `None` if it is wrong or missing, which is reported
/// already.
#[derive(Debug)]
pub(super) struct Settings {
    /// The configuration file, for what concerns it as a whole.
    file: Place,
    /// The configuration file's values, and the profile's where it has none.
    values: Values,
    pub(super) nodes: Vec<Node>,
    pub(super) nodes_place: Option<Place>,
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) node_id: Option<u16>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) bind: Option<IpAddr>,
    pub(super) shards: Option<u16>,
}

impl Settings {
    /// Lays `site` over `profile`. What is wrong goes into `problems`.
    pub(super) fn new(
        file: &str,
        site: Layer,
        profile: Layer,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut values = profile.values;
        values.extend(site.values);
        let mut settings = Self {
            file: Place { file: file.to_owned(), line: 0 },
            values,
            nodes: Vec::new(),
            nodes_place: site.nodes_place,
            cluster_id: None,
            node_id: None,
            data_dir: None,
            bind: None,
            shards: None,
        };
        settings.nodes = site.nodes.into_iter().map(|node| Node::new(node, problems)).collect();
        settings.node_id = settings.required_number(&keys::NODE_ID, problems);
        settings.shards = settings.small(&keys::SHARDS);
        settings.cluster_id = settings.cluster_id(problems);
        settings.data_dir = settings.data_dir(problems);
        settings.bind = settings.bind(problems);
        settings
    }

    /// The number of `key`, its default if no file gives one, or `None` if what is given is wrong.
    pub(super) fn integer(&self, key: &Key) -> Option<u64> {
        match (self.values.get(key.path), key.rule) {
            (Some(found), _) => match found.value {
                Some(Value::Integer(number)) => Some(number),
                _ => None,
            },
            (None, Rule::Integer { default, .. }) => default,
            (None, Rule::Flag { .. } | Rule::Text { .. }) => {
                unreachable!("{} is a number", key.path)
            }
        }
    }

    /// As [`Settings::integer`], for keys whose range ends below 65,536.
    pub(super) fn small(&self, key: &Key) -> Option<u16> {
        self.integer(key).and_then(|number| u16::try_from(number).ok())
    }

    /// The flag of `key`, its default if no file gives one, or `None` if what is given is wrong.
    pub(super) fn flag(&self, key: &Key) -> Option<bool> {
        match (self.values.get(key.path), key.rule) {
            (Some(found), _) => match found.value {
                Some(Value::Flag(flag)) => Some(flag),
                _ => None,
            },
            (None, Rule::Flag { default }) => Some(default),
            (None, Rule::Integer { .. } | Rule::Text { .. }) => {
                unreachable!("{} is a flag", key.path)
            }
        }
    }

    /// Where the first of `keys` that any file sets is set; the file as a whole if none is.
    pub(super) fn place_of_first(&self, keys: &[&Key]) -> Place {
        let mut found = keys.iter().filter_map(|key| self.values.get(key.path));
        found.next().map_or_else(|| self.file.clone(), |found| found.place.clone())
    }

    fn text(&self, key: &Key, problems: &mut Vec<Problem>) -> Option<(Place, String)> {
        let Rule::Text { default, example } = key.rule else {
            unreachable!("{} is a text", key.path);
        };
        match (self.values.get(key.path), default) {
            (Some(found), _) => match &found.value {
                Some(Value::Text(text)) => Some((found.place.clone(), text.clone())),
                _ => None,
            },
            (None, Some(default)) => Some((self.file.clone(), default.to_owned())),
            (None, None) => {
                let (key, example) = (key.path.to_owned(), example.to_owned());
                let fault = Fault::Missing { key, example };
                problems.push(Problem { place: self.file.clone(), fault });
                None
            }
        }
    }

    fn required_number(&self, key: &Key, problems: &mut Vec<Problem>) -> Option<u16> {
        if !self.values.contains_key(key.path) {
            let fault = Fault::Missing { key: key.path.to_owned(), example: "1".to_owned() };
            problems.push(Problem { place: self.file.clone(), fault });
        }
        self.small(key)
    }

    fn cluster_id(&self, problems: &mut Vec<Problem>) -> Option<ClusterId> {
        let (place, found) = self.text(&keys::CLUSTER_ID, problems)?;
        let id = ClusterId::parse(&found).filter(|id| *id != ClusterId::default());
        if id.is_none() {
            let fault = Fault::BadClusterId { found: printable(&found) };
            problems.push(Problem { place, fault });
        }
        id
    }

    /// Relative to the file's own directory, so that it means the same wherever we are started.
    fn data_dir(&self, problems: &mut Vec<Problem>) -> Option<PathBuf> {
        let (place, found) = self.text(&keys::DATA_DIR, problems)?;
        if found.is_empty() || found.contains('\0') {
            problems.push(Problem { place, fault: Fault::EmptyDataDir });
            return None;
        }
        let base = PathBuf::from(&self.file.file).parent().map(PathBuf::from).unwrap_or_default();
        Some(base.join(found))
    }

    fn bind(&self, problems: &mut Vec<Problem>) -> Option<IpAddr> {
        let (place, found) = self.text(&keys::BIND, problems)?;
        let bind = found.parse().ok();
        if bind.is_none() {
            problems.push(Problem { place, fault: Fault::BadBind { found: printable(&found) } });
        }
        bind
    }
}

impl Node {
    fn new((place, values): (Place, Values), problems: &mut Vec<Problem>) -> Self {
        let wanted = [
            (&keys::NODE_NUMBER, "1"),
            (&keys::NODE_HOST, "\"10.0.0.1\""),
            (&keys::NODE_CLIENT_PORT, "8000"),
        ];
        for (key, example) in wanted {
            if !values.contains_key(key.path) {
                let (key, example) = (key.path.to_owned(), example.to_owned());
                let fault = Fault::Missing { key, example };
                problems.push(Problem { place: place.clone(), fault });
            }
        }
        let port = |key: &Key| match values.get(key.path).map(|found| &found.value) {
            Some(Some(Value::Integer(number))) => u16::try_from(*number).ok(),
            _ => None,
        };
        let client_port = port(&keys::NODE_CLIENT_PORT);
        let peer_port = match values.contains_key(keys::NODE_PEER_PORT.path) {
            true => port(&keys::NODE_PEER_PORT),
            // A port beyond 65535 would be reported as a port that nobody wrote: the largest one
            // is reported instead, as leaving no room, if it leaves none.
            false => client_port.map(|port| port.saturating_add(keys::PEER_PORT_OFFSET)),
        };
        let host = values.get(keys::NODE_HOST.path).and_then(|found| {
            let Some(Value::Text(host)) = &found.value else { return None };
            if !is_host(host) {
                let fault = Fault::BadHost { found: printable(host) };
                problems.push(Problem { place: found.place.clone(), fault });
                return None;
            }
            Some(host.clone())
        });
        Self { place, id: port(&keys::NODE_NUMBER), host, client_port, peer_port }
    }
}

/// A host name (RFC 1123: letters, digits, hyphens and dots, at most 253) or an address.
fn is_host(text: &str) -> bool {
    const HOST_BYTES_MAX: usize = 253;
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let is_name = text.len() <= HOST_BYTES_MAX
        && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label);
    is_name || text.parse::<IpAddr>().is_ok()
}
