//! The load and its account, tried on a cluster in memory that misbehaves as told.

use std::sync::Arc;
use std::time::Duration;

use catamaran::wire::client::Consistency;

use crate::args::{Load, Mode, Rate};
use crate::audit::Verdict;
use crate::control::{Control, Topology};
use crate::engine::{Engine, Orders, Outcome, Place, Work};
use crate::fake::{Fake, Faults};
use crate::ledger::Ledger;
use crate::meter::Live;
use crate::payload::Payload;
use crate::verify::verify;

const LOAD: Load = Load {
    rate: Rate::Max,
    mode: Mode::Append,
    record_bytes: 64,
    records_per_request: 4,
    warmup: Duration::ZERO,
    duration: Duration::from_secs(20),
    connections: 3,
    inflight: 96,
    groups: None,
};

struct Ran {
    outcome: Outcome,
    control: Control,
    payload: Payload,
}

/// Runs `requests` requests, or to the end of the load.
fn run(fake: &Fake, load: Load, requests: Option<u64>, work: Work) -> Ran {
    let topology = Topology::discover(&fake.addresses(), None).unwrap();
    let mut control = Control::new(topology.clone());
    let routes = control.routes();
    let payload = Payload::new(5, load.record_bytes, load.records_per_request);
    let orders = Orders {
        topology,
        routes,
        load,
        work,
        payload: payload.clone(),
        requests,
        live: Arc::new(Live::default()),
    };
    Ran { outcome: Engine::new(orders).unwrap().run().unwrap(), control, payload }
}

fn read_back(ran: &mut Ran) -> Verdict {
    let ledger = std::mem::replace(&mut ran.outcome.ledger, Ledger::new(0));
    verify(&mut ran.control, &ran.payload, ledger, &mut |_| {}).unwrap()
}

#[test]
fn every_acknowledged_record_is_accounted_for() {
    let fake = Fake::start(3, Faults::default());
    let mut ran = run(&fake, LOAD, Some(3000), Work::Append);
    assert_eq!(ran.outcome.ledger.acked(), 12_000);
    assert_eq!(ran.outcome.meter.errors_total(), 0);
    let verdict = read_back(&mut ran);
    assert_eq!((verdict.acked, verdict.verified), (12_000, 12_000));
    assert!(verdict.is_good(), "{verdict:?}");
}

#[test]
fn an_open_loop_sends_what_its_timetable_says() {
    let fake = Fake::start(1, Faults::default());
    let load = Load {
        rate: Rate::PerSecond(20_000),
        records_per_request: 1,
        warmup: Duration::from_millis(100),
        duration: Duration::from_millis(400),
        inflight: 65_536,
        ..LOAD
    };
    let mut ran = run(&fake, load, None, Work::Append);
    assert_eq!(ran.outcome.ledger.acked() + ran.outcome.unsent, 10_000);
    assert!(ran.outcome.meter.quantile_us(0.5) > 0.0);
    assert!(read_back(&mut ran).is_good());
}

#[test]
fn refused_requests_are_sent_again_and_doubtful_ones_are_not() {
    let faults = Faults { busy_every: Some(10), unknown_every: Some(77), ..Faults::default() };
    let fake = Fake::start(2, faults);
    let mut ran = run(&fake, LOAD, Some(2000), Work::Append);
    let errors = ran.outcome.meter.errors().clone();
    assert!(errors["busy"] > 100, "{errors:?}");
    let unknown = ran.outcome.ledger.unknown();
    assert_eq!(unknown, errors["leadership_lost"] * 4);
    assert_eq!(ran.outcome.ledger.acked() + unknown, 8000);
    let verdict = read_back(&mut ran);
    assert_eq!((verdict.verified, verdict.unknown_present), (8000 - unknown, unknown));
    assert!(verdict.is_good(), "{verdict:?}");
}

#[test]
fn a_cut_connection_leaves_doubt_and_the_load_goes_on() {
    let fake = Fake::start(1, Faults { cut_at: Some(500), ..Faults::default() });
    let mut ran = run(&fake, LOAD, Some(2000), Work::Append);
    assert_eq!(ran.outcome.meter.errors()["links_lost"], 1);
    let unknown = ran.outcome.ledger.unknown();
    assert!((4..=96).contains(&unknown), "at most what one link had in flight: {unknown}");
    assert_eq!(ran.outcome.ledger.acked() + unknown, 8000);
    let verdict = read_back(&mut ran);
    assert!(verdict.unknown_present >= 4, "the cut one was kept: {verdict:?}");
    assert!(verdict.is_good(), "{verdict:?}");
}

#[test]
fn a_moved_leader_is_followed() {
    let fake = Fake::start(2, Faults { move_at: Some(300), ..Faults::default() });
    let mut ran = run(&fake, LOAD, Some(1500), Work::Append);
    assert!(ran.outcome.meter.errors()["not_leader"] >= 1);
    assert_eq!(ran.outcome.ledger.acked(), 6000);
    assert!(read_back(&mut ran).is_good());
}

#[test]
fn a_forgotten_record_and_a_doubled_one_are_found() {
    let fake = Fake::start(1, Faults { lose_at: Some(100), ..Faults::default() });
    let mut ran = run(&fake, LOAD, Some(500), Work::Append);
    assert_eq!(read_back(&mut ran).lost, 4);
    let fake = Fake::start(1, Faults { double_at: Some(100), ..Faults::default() });
    let mut ran = run(&fake, LOAD, Some(500), Work::Append);
    let verdict = read_back(&mut ran);
    assert_eq!((verdict.duplicated, verdict.lost), (4, 0));
}

#[test]
fn reads_are_checked_one_by_one() {
    let fake = Fake::start(2, Faults::default());
    let load = Load { records_per_request: 1, inflight: 2, connections: 1, ..LOAD };
    let prefilled = run(&fake, load, Some(50), Work::Append);
    let mut places: Vec<Vec<Place>> = Vec::new();
    for account in prefilled.outcome.ledger.into_accounts() {
        let of_run = |run: &crate::ledger::Run| {
            let run = *run;
            (0..u64::from(run.count))
                .map(move |nth| Place { index: run.index + nth, number: run.number + nth })
        };
        places.push(account.runs.iter().flat_map(of_run).collect());
    }
    let read = |places: Vec<Vec<Place>>| {
        let work = Work::Read { consistency: Consistency::Linearizable, places };
        run(&fake, Load { inflight: 32, ..load }, Some(400), work).outcome.meter
    };
    let meter = read(places.clone());
    assert_eq!((meter.records, meter.wrong, meter.errors_total()), (400, 0, 0));
    for place in places.iter_mut().flatten() {
        place.number += 1; // Nothing in the log is what we now believe.
    }
    assert_eq!(read(places).wrong, 400);
}
