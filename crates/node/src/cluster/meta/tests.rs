//! The bytes of version 1 of what a shard's leader is asked, for ever; and what hostile bytes do. The fixtures were
//! put together from docs/formats/metadata-wire.md by hand; what they carry are the released forms of the crates below.

use futures_util::FutureExt;

use super::*;

const ASKS: &str = include_str!("../../../tests/cluster/meta-ask-v1.hex");
const ANSWERS: &str = include_str!("../../../tests/cluster/meta-answer-v1.hex");

/// The first line of a crate's fixture, read by that crate.
fn released<T: Versioned>(text: &str) -> T {
    T::decode(&unhex(text.lines().next().unwrap_or_default())).unwrap()
}

fn unhex(line: &str) -> Vec<u8> {
    let mut bytes = vec![0; line.len() / 2];
    assert!(base::ids::unhex(line, &mut bytes), "the fixture is not hex");
    bytes
}

fn asks() -> Vec<Ask> {
    let wants = || released::<Wants>(include_str!("../../../../metastore/tests/fixtures/remote_wants_v1.hex"));
    let query: Query = released(include_str!("../../../../namespace/tests/fixtures/wire_queries_v1.hex"));
    let work = released(include_str!("../../../../namespace/tests/fixtures/wire_work_v1.hex"));
    let proposal = released(include_str!("../../../../metastore/tests/fixtures/remote_proposal_v1.hex"));
    vec![
        Ask::Fetch { wants: wants(), hint: None },
        Ask::Fetch { wants: wants(), hint: Some((VolumeId(7), query)) },
        Ask::Work(work),
        Ask::Propose { id: [0x1d; 16], at: Wall(0x0102_0304_0506), proposal },
        Ask::Tail { volume: VolumeId(7), after: Some(Seq(9)) },
        Ask::Tail { volume: VolumeId(7), after: None },
    ]
}

fn answers() -> Vec<Answer> {
    let outcome = released(include_str!("../../../../namespace/tests/fixtures/wire_outcome_v1.hex"));
    let refusal = released(include_str!("../../../../namespace/tests/fixtures/wire_refusals_v1.hex"));
    vec![
        Answer::Rows(released(include_str!("../../../../metastore/tests/fixtures/remote_rows_v1.hex"))),
        Answer::Done(outcome),
        Answer::Refused(Refusal(refusal)),
        Answer::Changed,
        Answer::Stale,
        Answer::Elsewhere(Some(NodeId([0x0d; 16]))),
        Answer::Elsewhere(None),
        Answer::Open,
        Answer::Tail(released(include_str!("../../../../namespace/tests/fixtures/wire_tail_v1.hex"))),
    ]
}

/// A line of hex for each, in the fixture's order.
fn check<T: Versioned + fmt::Debug>(text: &str, values: &[T]) {
    assert_eq!(text.lines().count(), values.len());
    for (line, value) in text.lines().zip(values) {
        let mut bytes = unhex(line);
        assert_eq!(format!("{:?}", T::decode(&bytes).unwrap()), format!("{value:?}"), "the released bytes read back");
        assert_eq!(base::ids::hex(&value.encode()), line, "this release writes them");
        assert!(T::decode(&[bytes.as_slice(), &[0]].concat()).is_err(), "a byte too many");
        bytes[4] += 1;
        assert!(matches!(T::decode(&bytes), Err(codec::Error::Version { .. })), "a newer version");
    }
}

#[test]
fn questions_and_answers_have_the_bytes_that_were_released() {
    check(ASKS, &asks());
    check(ANSWERS, &answers());
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Cut and changed bytes of each value never panic; what is read all the same can be written and read again.
fn survives_hostile_bytes<T: Versioned + fmt::Debug>(values: &[T], state: &mut u64) {
    for value in values {
        let whole = value.encode();
        for end in 0..whole.len() {
            assert!(T::decode(&whole[..end]).is_err(), "{end} of {} bytes are not enough", whole.len());
        }
        for _ in 0..3000 {
            let mut bytes = whole.clone();
            for _ in 0..=next(state) % 4 {
                let at = next(state) as usize % bytes.len();
                bytes[at] = next(state) as u8;
            }
            if let Ok(value) = T::decode(&bytes) {
                let again = T::decode(&value.encode()).unwrap();
                assert_eq!(format!("{again:?}"), format!("{value:?}"));
            }
        }
    }
    for _ in 0..20_000 {
        let mut bytes = [T::MARK.as_slice(), &[T::VERSION, (next(state) % 9) as u8]].concat();
        bytes.extend((0..next(state) % 80).map(|_| next(state) as u8 & 3));
        let _ = T::decode(&bytes);
    }
}

#[test]
fn hostile_questions_and_answers_are_errors_and_never_panics() {
    let mut state = 7;
    survives_hostile_bytes(&asks(), &mut state);
    survives_hostile_bytes(&answers(), &mut state);
}

#[tokio::test]
async fn a_leader_is_waited_for_until_the_replica_here_names_another() {
    let [old, new] = [NodeId([1; 16]), NodeId([2; 16])];
    let (told, here) = watch::channel(Status { leader: Some(old), term: 4, ..Status::default() });
    let mut moves = std::pin::pin!(moved(Some(here.clone()), old, None));
    assert_eq!(moves.as_mut().now_or_never(), None);
    // That nobody is known to lead is no reason: the one that was asked may lead still.
    told.send_modify(|status| status.leader = None);
    assert_eq!(moves.as_mut().now_or_never(), None);
    told.send_modify(|status| (status.leader, status.term) = (Some(new), 5));
    assert_eq!(moves.as_mut().now_or_never(), Some(()));
    // Who was asked without being the leader isn't waited for at all; without a replica nobody knows.
    assert_eq!(moved(Some(here.clone()), old, None).now_or_never(), Some(()));
    assert_eq!(moved(None, old, None).now_or_never(), None);
    // Nor does a replica say anything that names who denied it in that term: it may have left the group. If it hears of
    // another election it hasn't.
    let denied = Some((new, 5));
    assert_eq!(moved(Some(here.clone()), old, denied).now_or_never(), None);
    told.send_modify(|status| status.term = 6);
    assert_eq!(moved(Some(here), old, denied).now_or_never(), Some(()));
}
