//! Draws a sample that anyone can draw again: the records with the smallest hashes of draw and id.

use std::collections::BinaryHeap;

use countersign_ledger::hash::sha256;
use countersign_ledger::{Hash, LeafIndex};

/// Returns the rank of a record in a draw: `SHA-256(draw ‖ ":" ‖ record_id)`.
#[must_use]
pub fn rank(draw: &str, record_id: &str) -> Hash {
    sha256(format!("{draw}:{record_id}").as_bytes())
}

/// The `n` records of the smallest rank among those that were offered; keeps no others.
#[derive(Debug)]
pub struct Sample {
    draw: String,
    n: usize,
    best: BinaryHeap<(Hash, String, LeafIndex)>,
}

impl Sample {
    /// Begins a draw.
    #[must_use]
    pub fn new(draw: &str, n: usize) -> Self {
        Self { draw: draw.to_owned(), n, best: BinaryHeap::new() }
    }

    /// Offers a record of the population.
    pub fn offer(&mut self, record_id: &str, index: LeafIndex) {
        let rank = rank(&self.draw, record_id);
        let worse = self.best.len() >= self.n && self.best.peek().is_none_or(|(r, ..)| *r <= rank);
        if worse {
            return;
        }
        self.best.push((rank, record_id.to_owned(), index));
        if self.best.len() > self.n {
            self.best.pop();
        }
    }

    /// Returns the records in the order of their rank.
    #[must_use]
    pub fn drawn(self) -> Vec<(Hash, String, LeafIndex)> {
        self.best.into_sorted_vec()
    }
}

/// Returns the program, in the standard library of Python alone, that draws the same sample from the file
/// of records that it is given.
#[must_use]
pub fn script(draw: &str, n: usize) -> String {
    let draw = serde_json::Value::from(draw);
    format!(
        "import hashlib, json, sys
draw, n = {draw}, {n}
ids = set()
for line in open(sys.argv[1], encoding=\"utf-8\"):
    row = json.loads(line)
    ids.add(row.get(\"leaf\", row)[\"record_id\"])
rank = lambda record: hashlib.sha256(f\"{{draw}}:{{record}}\".encode()).digest()
print(\"\\n\".join(sorted(ids, key=rank)[:n]))
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_160_the_sample_is_the_n_smallest_hashes_in_any_order_of_offers() {
        let ids: Vec<String> = (0..500).map(|n| format!("record-{n}")).collect();
        let mut all: Vec<_> = ids.iter().map(|id| (rank("4711", id), id.clone())).collect();
        all.sort();
        let all: Vec<String> = all.into_iter().map(|(_, id)| id).collect();
        for n in [0, 1, 25, 500, 600] {
            let (mut there, mut back) = (Sample::new("4711", n), Sample::new("4711", n));
            ids.iter().for_each(|id| there.offer(id, LeafIndex(0)));
            ids.iter().rev().for_each(|id| back.offer(id, LeafIndex(0)));
            for sample in [there, back] {
                let drawn: Vec<String> = sample.drawn().into_iter().map(|(_, id, _)| id).collect();
                assert_eq!(drawn, all[..n.min(500)], "{n}");
            }
        }
    }
}
