//! Every way in which a small cluster can be cut apart, and that it lives with each.
//!
//! All 64 directed graphs of three nodes with the leader at each of them, and all 1,024 undirected
//! ones of five. The graphs of five are all labelled ones, so that one place of the leader covers
//! every other: a world with the leader elsewhere is one of these with other names.

use catamaran::sim::{Graph, GraphSummary, run_graph};

#[track_caller]
fn live(graph: Graph, leader: usize) -> GraphSummary {
    match run_graph(graph, leader, None) {
        Ok(summary) => summary,
        Err(failure) => panic!("{graph:?}, leader {leader}: {failure}"),
    }
}

#[test]
fn three_nodes_live_with_every_directed_graph() {
    let mut served = 0;
    for number in 0..Graph::directed_count(3) {
        for leader in 0..3 {
            let graph = Graph::directed(3, number);
            served += u32::from(live(graph, leader).served_after.is_some());
        }
    }
    // The 37 graphs with a pair that talks, thrice.
    assert!(served >= 111, "{served}");
}

fn five_nodes(numbers: impl Iterator<Item = u64>) {
    let (mut graphs, mut served, mut cliques) = (0, 0, 0);
    for number in numbers {
        let graph = Graph::undirected(5, number);
        let summary = live(graph, 0);
        graphs += 1;
        served += u32::from(summary.served_after.is_some());
        cliques += u32::from(graph.has_quorum_clique());
    }
    assert!(graphs == 512 && cliques > 150 && served >= cliques, "{graphs} {cliques} {served}");
}

#[test]
fn five_nodes_live_with_every_undirected_graph_without_the_first_link() {
    five_nodes((0..Graph::undirected_count(5)).step_by(2));
}

#[test]
fn five_nodes_live_with_every_undirected_graph_with_the_first_link() {
    five_nodes((1..Graph::undirected_count(5)).step_by(2));
}

#[test]
fn the_same_graph_does_the_same_again() {
    let graph = Graph::undirected(5, 0b10_1101_0111);
    assert_eq!(live(graph, 2), live(graph, 2));
}
