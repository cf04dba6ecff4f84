use super::*;

/// A small generator with a seed, so that every failure can be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides.max(1)
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        (0..len).map(|_| self.roll(256) as u8).collect::<Vec<u8>>().into()
    }

    /// Cuts at random places, also into empty parts.
    fn cut(&mut self, mut bytes: Bytes) -> Vec<Bytes> {
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let most = if self.roll(3) == 0 { 70 } else { bytes.len() };
            parts.push(bytes.split_to(self.roll(most + 1).min(bytes.len())));
        }
        parts
    }
}

/// One stream of a history.
struct Story {
    stream: Stream,
    all: Bytes,
    left: Bytes,
    turn: Option<oneshot::Receiver<Md5>>,
    md5: Option<Md5>,
    submitted: bool,
}

/// Streams and workers whose every step is drawn: what an operating system may do, and more.
struct World {
    dice: Dice,
    pool: Arc<Pool>,
    workers: Vec<Worker>,
    streams: Vec<Story>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let pool = Arc::new(Pool::default());
        let streams = (0..1 + dice.roll(40))
            .map(|_| {
                let size = [0, 1, 63, 64, 65, 200, 5000, 50_000][dice.roll(8)];
                let len = dice.roll(size + 1);
                let all = dice.bytes(len);
                Story {
                    stream: pool.stream(),
                    left: all.clone(),
                    all,
                    turn: None,
                    md5: Some(Md5::default()),
                    submitted: false,
                }
            })
            .collect();
        World { dice, pool, workers: Vec::new(), streams }
    }

    fn submit(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        if stream.submitted && stream.left.is_empty() {
            return;
        }
        let Some(md5) = stream.md5.take() else { return };
        stream.submitted = true;
        let now = stream.left.split_to(self.dice.roll(stream.left.len() + 1));
        let (reply, answer) = oneshot::channel();
        stream.turn = Some(answer);
        if stream.stream.enter(Work { md5, parts: self.dice.cut(now).into() }, reply) {
            self.workers.push(self.pool.worker());
        }
    }

    fn hurry(&mut self, at: usize) {
        if self.streams[at].turn.is_some() && self.streams[at].stream.press() {
            self.workers.push(self.pool.worker());
        }
    }

    fn step(&mut self) {
        if self.workers.is_empty() {
            return;
        }
        let at = self.dice.roll(self.workers.len());
        let worker = &mut self.workers[at];
        match worker.look() {
            true => worker.slice(),
            false => drop(self.workers.remove(at)),
        }
    }

    /// Takes the answer, if it is there.
    fn collect(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        if let Some(turn) = &mut stream.turn
            && let Ok(md5) = turn.try_recv()
        {
            (stream.turn, stream.md5) = (None, Some(md5));
        }
    }

    fn finished(&self) -> bool {
        self.streams.iter().all(|stream| stream.submitted && stream.left.is_empty() && stream.turn.is_none())
    }

    fn check_counts(&self) {
        let shared = self.pool.lock();
        assert_eq!(shared.workers, self.workers.len());
        assert_eq!(shared.held, self.workers.iter().map(|worker| worker.jobs.len()).sum::<usize>());
        let must_be_seen = shared.waiting.len() >= lanes::MOST || shared.waiting.iter().any(Job::is_urgent);
        assert!(!must_be_seen || shared.workers > 0, "waits, and nobody will look");
    }
}

#[test]
fn any_interleaving_of_up_to_40_streams_gives_each_the_librarys_digest() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        let mut steps = 0;
        while !world.finished() {
            let at = world.dice.roll(world.streams.len());
            match world.dice.roll(16) {
                0..4 => world.submit(at),
                4..8 => world.collect(at),
                8 => world.hurry(at),
                _ => world.step(),
            }
            world.check_counts();
            steps += 1;
            assert!(steps < 200_000, "seed {seed} comes to no end");
        }
        while !world.workers.is_empty() {
            world.step();
        }
        world.check_counts();
        for (at, stream) in world.streams.into_iter().enumerate() {
            let digest = stream.md5.unwrap().finish();
            assert_eq!(digest, md5_simd::digest_portable(&stream.all), "seed {seed}, stream {at}");
        }
    }
}

#[test]
fn streams_given_up_half_way_and_lost_workers_harm_nobody_else() {
    for seed in 1000..1150 {
        let mut world = World::new(seed);
        let mut given_up = vec![false; world.streams.len()];
        let mut steps = 0;
        while !world.finished() {
            let at = world.dice.roll(world.streams.len());
            match world.dice.roll(40) {
                0 => {
                    // The request is gone: nobody asks for this stream any more.
                    given_up[at] = true;
                    let stream = &mut world.streams[at];
                    (stream.turn, stream.left, stream.submitted) = (None, Bytes::new(), true);
                }
                1 if !world.workers.is_empty() => {
                    let lost = world.dice.roll(world.workers.len());
                    drop(world.workers.remove(lost));
                }
                2..12 => world.submit(at),
                12..20 => world.collect(at),
                20..23 => world.hurry(at),
                _ => world.step(),
            }
            // Who was with a lost worker learns it.
            for (at, stream) in world.streams.iter_mut().enumerate() {
                if let Some(turn) = &mut stream.turn {
                    match turn.try_recv() {
                        Ok(md5) => (stream.turn, stream.md5) = (None, Some(md5)),
                        Err(oneshot::error::TryRecvError::Empty) => {}
                        Err(oneshot::error::TryRecvError::Closed) => {
                            given_up[at] = true;
                            (stream.turn, stream.left, stream.submitted) = (None, Bytes::new(), true);
                        }
                    }
                }
            }
            world.check_counts();
            steps += 1;
            assert!(steps < 200_000, "seed {seed} comes to no end");
        }
        for (at, stream) in world.streams.into_iter().enumerate().filter(|(at, _)| !given_up[*at]) {
            let digest = stream.md5.unwrap().finish();
            assert_eq!(digest, md5_simd::digest_portable(&stream.all), "seed {seed}, stream {at}");
        }
    }
}

fn enter(stream: &Stream, bytes: Bytes) -> (bool, oneshot::Receiver<Md5>) {
    let (reply, answer) = oneshot::channel();
    (stream.enter(Work { md5: Md5::default(), parts: [bytes].into() }, reply), answer)
}

#[test]
fn a_stream_that_was_given_up_is_forgotten() {
    let pool = Arc::new(Pool::default());
    let (gone, other) = (pool.stream(), pool.stream());
    let mut dice = Dice(7);
    let (started, answer) = enter(&gone, dice.bytes(1 << 20));
    assert!(!started, "it waits for the other");
    let (_, others) = enter(&other, Bytes::new());
    assert!(gone.press());
    let mut worker = pool.worker();
    assert!(worker.look());
    worker.slice();
    assert_eq!(worker.jobs.len(), 1, "a slice is far from all of it");
    drop(answer);
    worker.slice();
    assert!(worker.jobs.is_empty() && !worker.look());
    drop(others);
    let (started, answer) = enter(&gone, dice.bytes(1000));
    assert!(!started);
    drop(answer);
    drop(gone);
    assert!(pool.lock().waiting.is_empty());
}

#[test]
fn a_lone_stream_does_not_wait() {
    let pool = Arc::new(Pool::default());
    let stream = pool.stream();
    let (started, _answer) = enter(&stream, Bytes::new());
    assert!(started && !stream.press(), "one worker is enough");
}

#[test]
fn streams_wait_for_each_other_until_one_hurries_or_all_lanes_are_full() {
    let pool = Arc::new(Pool::default());
    let streams: Vec<Stream> = (0..17).map(|_| pool.stream()).collect();
    let mut answers = Vec::new();
    for (number, stream) in (1..).zip(&streams) {
        let (started, answer) = enter(stream, Bytes::new());
        answers.push(answer);
        // The ninth finds the first worker's lanes taken.
        assert_eq!(started, number == 8 || number == 9 || number == 17, "stream {number}");
    }
    let pool = Arc::new(Pool::default());
    let streams: Vec<Stream> = (0..3).map(|_| pool.stream()).collect();
    for stream in &streams {
        let (started, answer) = enter(stream, Bytes::new());
        answers.push(answer);
        assert!(!started);
    }
    assert!(streams[1].press());
    let mut worker = pool.worker();
    assert!(worker.look());
    assert_eq!(worker.jobs.len(), 3);
}

#[test]
fn a_worker_ends_when_nobody_it_has_is_in_a_hurry() {
    let pool = Arc::new(Pool::default());
    let streams: Vec<Stream> = (0..2).map(|_| pool.stream()).collect();
    let mut dice = Dice(9);
    let (_, _long) = enter(&streams[0], dice.bytes(100_000));
    let (_, _short) = enter(&streams[1], dice.bytes(100));
    assert!(streams[1].press());
    let mut worker = pool.worker();
    assert!(worker.look());
    worker.slice();
    assert_eq!(worker.jobs.len(), 1, "the one in a hurry is done");
    assert!(!worker.look());
    assert!(pool.lock().waiting.len() == 1 && streams[0].press(), "the other is not lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods, reason = "the real world")]
async fn forty_bodies_at_a_time_on_real_threads_are_hashed_right() {
    use crate::checks::Check;
    use crate::digests::{Digester, Hashers, Item, Lane};
    let hashers = Hashers::new(Env::real());
    let mut tasks = Vec::new();
    for seed in 0..40 {
        let hashers = hashers.clone();
        tasks.push(tokio::task::spawn(async move {
            let mut dice = Dice(seed);
            let len = [0, 1000, 300_000, 1 << 20][dice.roll(4)] + dice.roll(1000);
            let all = dice.bytes(len);
            let algorithm = ["CRC32", "SHA256"].get(dice.roll(4)).copied();
            let mut lane = Lane::new(hashers, Digester::of_check(Check::new(algorithm).unwrap()));
            let given_up = dice.roll(4) == 0;
            let mut left = all.clone();
            while !left.is_empty() {
                let part = left.split_to(left.len().min(1 + dice.roll(100_000)));
                lane.push(Item::Data(part)).await.unwrap();
                if given_up && dice.roll(4) == 0 {
                    return;
                }
            }
            let mut alone = Check::new(algorithm).unwrap();
            alone.update(&all);
            let hashed = lane.finish().await.unwrap().check.finish();
            assert_eq!(hashed, alone.finish());
            assert_eq!(hashed.0, base::ids::hex(&md5_simd::digest_portable(&all)));
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}
