//! Rows of the catalog that say which nodes keep which metadata shard.

use base::NodeId;
use base::kv::{Batch, View};
use codec::{Reader, Versioned, Writer};
use namespace::catalog;

/// Nodes of one shard at the most.
const NODES_MAX: usize = 16;

/// Who keeps a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What all replicas of it know, and nobody else.
    pub token: [u8; 16],
    /// Who has a replica that votes, or is about to.
    pub nodes: Vec<NodeId>,
}

impl Versioned for Plan {
    const NAME: &'static str = "shard plan";
    const MARK: [u8; 4] = *b"AbSp";
    const VERSION: u8 = 1;

    fn encode_body(&self, to: &mut Writer) {
        to.raw(&self.token).u8(self.nodes.len() as u8);
        self.nodes.iter().for_each(|node| _ = to.raw(&node.0));
    }

    fn decode_body(_: u8, from: &mut Reader<'_>) -> Result<Self, codec::Error> {
        let token = from.array("token")?;
        let len = usize::from(from.u8("nodes")?);
        if len > NODES_MAX {
            return Err(codec::Error::TooLong { what: "nodes", len, max: NODES_MAX });
        }
        let nodes = (0..len).map(|_| Ok(NodeId(from.array("node")?))).collect::<Result<_, codec::Error>>()?;
        Ok(Self { token, nodes })
    }
}

fn name(shard: u32) -> String {
    format!("shard {shard}")
}

/// The row of a shard.
pub(crate) fn plan(view: &dyn View, shard: u32) -> Result<Option<Plan>, namespace::Error> {
    Ok(catalog::setting(view, &name(shard))?.map(|bytes| Plan::decode(&bytes)).transpose()?)
}

/// Changes it.
pub(crate) fn put_plan(shard: u32, plan: &Plan) -> Batch {
    catalog::put_setting(&name(shard), Some(&plan.encode()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans() -> Vec<Plan> {
        let nodes = vec![NodeId([1; 16]), NodeId([2; 16])];
        vec![Plan { token: [7; 16], nodes }, Plan { token: [7; 16], nodes: Vec::new() }]
    }

    /// docs/formats/namespace.md, "shard N".
    #[test]
    fn plans_have_the_bytes_that_were_released() {
        let text = include_str!("../../tests/cluster/plan-v1.hex");
        assert_eq!(text.lines().count(), plans().len());
        for (line, plan) in text.lines().zip(plans()) {
            let mut bytes = vec![0; line.len() / 2];
            assert!(base::ids::unhex(line, &mut bytes), "the fixture is not hex");
            assert_eq!(Plan::decode(&bytes).unwrap(), plan, "the released bytes read back");
            assert_eq!(base::ids::hex(&plan.encode()), line, "this release writes them");
            assert!(Plan::decode(&[bytes.as_slice(), &[0]].concat()).is_err(), "a byte too many");
            bytes[4] += 1;
            assert!(matches!(Plan::decode(&bytes), Err(codec::Error::Version { .. })), "a newer version");
        }
    }

    #[test]
    fn cut_and_changed_plans_are_refused_or_read_for_what_they_say() {
        for plan in plans() {
            let bytes = plan.encode();
            for cut in 0..bytes.len() {
                assert!(Plan::decode(&bytes[..cut]).is_err());
            }
            // Mark and version are the codec's.
            for (at, value) in (5..bytes.len()).flat_map(|at| (0..=255).map(move |value| (at, value))) {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok(plan) = Plan::decode(&changed) {
                    assert_eq!(plan.encode(), changed);
                }
            }
        }
    }

    #[test]
    fn a_plan_of_more_nodes_than_a_shard_has_is_refused() {
        let plan = Plan { token: [7; 16], nodes: vec![NodeId([1; 16]); NODES_MAX + 1] };
        assert!(matches!(Plan::decode(&plan.encode()), Err(codec::Error::TooLong { .. })));
    }
}
