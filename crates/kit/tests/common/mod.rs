//! Kits for tests.
#![allow(dead_code)]

use base::{DriveId, GroupId, NodeId, PolicyId, SegmentId, VolumeId, Wall};
use crypt::{PublicKey, VolumeRoot};
use kit::{Body, Change, Code, Group, Log, Node, Object, Position, Segment, Slot, Span, State};

pub const VOLUME: VolumeId = VolumeId(7);
pub const MIB: u64 = 1 << 20;

pub fn root() -> VolumeRoot {
    VolumeRoot::new(std::array::from_fn(|i| i as u8))
}

/// Numbers that differ, the same each time (xorshift64*, Vigna 2016).
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.roll() as u8)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
}

pub fn segment(dice: &mut Dice, len: u64) -> Segment {
    Segment {
        id: SegmentId(dice.bytes()),
        code: Code { policy: PolicyId(1), k: 4, m: 2 },
        group: GroupId(dice.below(2000) as u32),
        len,
        bare_key: dice.bytes(),
        root: dice.bytes(),
    }
}

pub fn object(version: u64, modified: u64, size: u64, body: Body) -> Object {
    Object { version, null: false, marker: false, modified: Wall(modified), size, attrs: Vec::new(), body }
}

pub fn put(path: &str, object: Object) -> Change {
    Change::Put { path: path.into(), object }
}

/// One of everything.
pub fn everything(dice: &mut Dice) -> Vec<Change> {
    let pack = segment(dice, 300_000);
    let packed = |dice: &mut Dice, index| {
        let slot = Slot { index, offset: index * 5000, len: 5016 };
        Body::Packed(Segment { bare_key: dice.bytes(), ..pack.clone() }, slot)
    };
    let inline = Body::Inline(b"small".to_vec());
    let whole = |dice: &mut Dice, len| Body::Segments(vec![segment(dice, len)]);
    let long = Body::Segments(vec![segment(dice, 64 * MIB), segment(dice, 64 * MIB), segment(dice, 5)]);
    let odd = Body::Segments(vec![segment(dice, 3), segment(dice, 64 * MIB)]);
    let first = packed(dice, 0);
    let spans = vec![
        Span { size: 5, body: inline.clone() },
        Span { size: 9, body: whole(dice, 9) },
        Span { size: 5000, body: first.clone() },
    ];
    let node = Node { key: PublicKey([5; 32]), addresses: vec!["10.0.0.1:9400".parse().unwrap()] };
    let drives: Vec<DriveId> = (0..6).map(|at| DriveId([at; 16])).collect();
    let mut null = object(9, 1_800_000_000_000, 5, inline.clone());
    (null.null, null.attrs) = (true, b"etag".to_vec());
    let marker = Object { marker: true, ..object(10, 1_800_000_000_500, 0, Body::Inline(Vec::new())) };
    vec![
        Change::Node(NodeId([1; 16]), Some(node)),
        Change::Drive(drives[0], Some(NodeId([1; 16]))),
        Change::Drive(drives[1], None),
        Change::Group(Group {
            policy: PolicyId(1),
            group: GroupId(3),
            version: 2,
            members: drives.clone(),
            from: drives[1..].to_vec(),
        }),
        put("photos/ä.jpg", object(1, 1_795_230_600_123, 5, inline)),
        put("photos/äh.jpg", object(2, 1_795_230_600_124, MIB, whole(dice, MIB))),
        put("photos/b", object(3, 1_795_230_600_100, 128 * MIB + 5, long)),
        put("photos/b", object(4, 0, 64 * MIB + 3, odd)),
        put("x", object(5, 7, 5000, first)),
        put("y", object(6, 8, 5000, packed(dice, 1))),
        put("z/z", object(7, 9, 5014, Body::Spans(spans))),
        put("z", null),
        put("z", marker),
        Change::Drop { path: "photos/b".into(), version: 3 },
        Change::OlderRoot(vec![1; 64]),
        Change::Position(Position { seq: 12, at: Wall(1_800_000_000_500) }),
    ]
}

/// A log of `frames` deltas: its bytes, the state after each frame, and where each frame ends.
pub fn log_of(seed: u64, frames: usize) -> (Vec<u8>, Log, Vec<(usize, State)>) {
    let mut dice = Dice(seed);
    let mut salts = Dice(seed + 1);
    let (mut bytes, mut log) = Log::create(&root(), VOLUME, [9; 16], State::default(), || salts.bytes()).unwrap();
    let mut ends = vec![(bytes.len(), log.state().clone())];
    for frame in 0..frames {
        let changes: Vec<Change> = match frame {
            0 => everything(&mut dice),
            _ => {
                let len = 1 + dice.below(MIB);
                let body = Body::Segments(vec![segment(&mut dice, len)]);
                vec![put(&format!("new/{frame}"), object(100 + frame as u64, frame as u64, len, body))]
            }
        };
        bytes.extend(log.append(changes, || salts.bytes()).unwrap());
        ends.push((bytes.len(), log.state().clone()));
    }
    (bytes, log, ends)
}
