//! Which pieces hang together, and on which side of the patient: what keeps left and right apart.

use super::candidates::Anchors;
use std::collections::BTreeSet;

/// Which pieces hang together without organs, and on which side.
pub(super) struct Chains {
    parents: Vec<u32>,
    /// Side of every chain by its root, then of every organ.
    sides: Vec<Option<bool>>,
    /// Organs that each chain ends at, by its root.
    organs: Vec<BTreeSet<u32>>,
}

impl Chains {
    pub fn new(pieces: usize, anchors: Option<&Anchors<'_>>) -> Self {
        let mut sides = vec![None; pieces];
        if let Some(anchors) = anchors {
            sides.clone_from(&anchors.piece_sides);
            sides.extend(&anchors.organ_sides);
        }
        Self {
            parents: (0..pieces as u32).collect(),
            sides,
            organs: vec![BTreeSet::new(); pieces],
        }
    }

    /// Notes that a piece touches an organ.
    pub fn touch(&mut self, piece: u32, organ: u32) {
        let root = self.root(piece);
        self.organs[root as usize].insert(organ);
    }

    /// Whether two groups are one already: the same chain, a chain and an organ that it ends at, or two chains that
    /// end at the same organ. Chains that only hang together over two organs are not: that is how the other
    /// ureter of a horseshoe kidney, or a second one, closes a circle with the first.
    pub fn hang_together(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        match [a, b].map(|group| self.organs.get(group as usize)) {
            [Some(one), Some(other)] => a == b || !one.is_disjoint(other),
            [Some(organs), None] => organs.contains(&b),
            [None, Some(organs)] => organs.contains(&a),
            [None, None] => true,
        }
    }

    /// The first piece of a chain; organs are their own.
    pub fn root(&self, mut group: u32) -> u32 {
        while let Some(&parent) = self.parents.get(group as usize)
            && parent != group
        {
            group = parent;
        }
        group
    }

    fn side(&self, group: u32) -> Option<bool> {
        self.sides.get(self.root(group) as usize).copied().flatten()
    }

    /// For every piece whether it lies on the other side of the patient than `group`; empty when none does.
    pub fn opposed_to(&self, group: u32) -> Vec<bool> {
        let pieces = 0..self.parents.len() as u32;
        let opposed: Vec<bool> = pieces.map(|piece| !self.may_join(piece, group)).collect();
        if opposed.contains(&true) {
            opposed
        } else {
            Vec::new()
        }
    }

    pub fn may_join(&self, a: u32, b: u32) -> bool {
        self.side(a).is_none() || self.side(b).is_none() || self.side(a) == self.side(b)
    }

    /// Takes two groups for one chain. An organ stays its own, but gives its side to a chain that has none.
    pub fn join(&mut self, a: u32, b: u32) {
        let side = self.side(a).or(self.side(b));
        let (a, b) = (self.root(a), self.root(b));
        let (first, second) = (a.min(b), a.max(b));
        if (second as usize) < self.parents.len() && first != second {
            self.parents[second as usize] = first;
            let organs = std::mem::take(&mut self.organs[second as usize]);
            self.organs[first as usize].extend(organs);
        } else if (first as usize) < self.parents.len() && first != second {
            self.touch(first, second);
        }
        if (first as usize) < self.parents.len() {
            self.sides[first as usize] = side;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_takes_the_side_of_what_it_joins_and_then_refuses_the_other() {
        let mut chains = Chains {
            parents: vec![0, 1, 2],
            // Right, near the midline, left; then a bladder without a side.
            sides: vec![Some(true), None, Some(false), None],
            organs: vec![BTreeSet::new(); 3],
        };
        assert!(chains.may_join(0, 1) && !chains.may_join(0, 2));
        chains.join(0, 3);
        chains.join(2, 3);
        assert!(
            chains.may_join(0, 3) && !chains.may_join(0, 2),
            "the bladder joins no sides"
        );
        chains.join(0, 1);
        assert!(!chains.may_join(1, 2) && chains.root(1) == 0);
        assert!(chains.hang_together(1, 3), "over piece 0");
        assert!(chains.hang_together(1, 2), "over the bladder");
    }
}
