//! Against libp2p's own QUIC, in both directions.

use tokio::task::JoinHandle;

use super::super::{Connection, Stream, UDP_PAYLOAD_BYTES_MAX};
use super::*;

/// More than the windows of one stream, so that they must move.
const BYTES: usize = 24 * 1024 * 1024;

fn bytes(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Sends megabytes, ends its direction, and still gets as many back.
async fn question(muxer: &mut StreamMuxerBox) {
    let mut stream = open(muxer).await.expect("opens");
    stream.write_all(&bytes(1)).await.expect("writes");
    stream.close().await.expect("closes");
    stream.close().await.expect("closing twice is no error");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    assert!(answer == bytes(2), "{} bytes came back, or others", answer.len());
}

async fn answer(muxer: &mut StreamMuxerBox) {
    let mut stream = accept(muxer).await.expect("accepts");
    let mut question = Vec::new();
    stream.read_to_end(&mut question).await.expect("reads");
    assert!(question == bytes(1), "{} bytes arrived, or others", question.len());
    stream.write_all(&bytes(2)).await.expect("writes");
    stream.close().await.expect("closes");
    // Kept until the dialler has everything: dropping a muxer ends its connection.
    let mut nothing = [0];
    assert_eq!(stream.read(&mut nothing).await.expect("reads"), 0);
}

async fn talk(make: [fn(&Keypair) -> AnyTransport; 2]) {
    let keys = [Keypair::generate_ed25519(), Keypair::generate_ed25519()];
    let [dialler, listener] = [0, 1].map(|side| make[side](&keys[side]));
    let [mut dialled, mut accepted] = connect(dialler, listener).await;
    assert_eq!(dialled.0, keys[1].public().to_peer_id());
    assert_eq!(accepted.0, keys[0].public().to_peer_id());
    within(async { tokio::join!(question(&mut dialled.1), answer(&mut accepted.1)) }).await;
    // Streams of the listener's side work as well.
    within(async { tokio::join!(question(&mut accepted.1), answer(&mut dialled.1)) }).await;
}

fn own(key: &Keypair) -> AnyTransport {
    boxed(ours(key))
}

#[tokio::test(flavor = "multi_thread")]
async fn we_talk_to_each_other() {
    talk([own, own]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_dial_libp2p() {
    talk([own, theirs]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libp2p_dials_us() {
    talk([theirs, own]).await;
}

/// A connection of ours, whose data the other end reads to the end.
struct Flow {
    connection: Connection,
    stream: Stream,
    reader: JoinHandle<u64>,
}

impl Flow {
    async fn new(address: Multiaddr, mut incoming: mpsc::Receiver<Established>) -> Self {
        let mut dialler = ours(&Keypair::generate_ed25519());
        let (_, mut connection) = within(dial(&mut dialler, address)).await.expect("dialled");
        serve(dialler);
        let (_, mut accepted) = within(incoming.recv()).await.expect("serves").expect("accepted");
        let reader = tokio::spawn(async move {
            let mut stream = accept(&mut accepted).await.expect("accepts");
            futures::io::copy(&mut stream, &mut futures::io::sink()).await.expect("reads")
        });
        let stream = open(&mut connection).await.expect("opens");
        Self { connection, stream, reader }
    }

    /// Over the loopback interface, which carries anything.
    async fn direct(mut listener: AnyTransport) -> Self {
        let address = listen(&mut listener, loopback()).await;
        Self::new(address, serve(listener)).await
    }

    /// Over a path that loses packets larger than this.
    async fn over_line(packet_bytes_max: usize) -> (Self, Line) {
        let mut listener = own(&Keypair::generate_ed25519());
        let line = relay(listen(&mut listener, loopback()).await).await;
        line.packet_bytes_max.store(packet_bytes_max, Ordering::Relaxed);
        (Self::new(line.address.clone(), serve(listener)).await, line)
    }

    /// Sends until the path is known to carry packets of `bytes`: probes go between the data.
    /// Gives how much was sent.
    async fn grow(&mut self, bytes: u16) -> u64 {
        let mut sent = 0;
        within(async {
            while self.connection.packet_bytes() < bytes {
                sent += self.send().await;
            }
        })
        .await;
        sent
    }

    async fn send(&mut self) -> u64 {
        let chunk = vec![7; 16 * 1024];
        within(self.stream.write_all(&chunk)).await.expect("writes");
        chunk.len() as u64
    }

    /// Ends it, and gives how much arrived.
    async fn end(mut self) -> u64 {
        self.stream.close().await.expect("closes");
        within(self.reader).await.expect("read to the end")
    }
}

// Discovery ends within some 20 bytes of the bound where nothing else is lost, and earlier on a
// busy machine, whose socket buffers overflow.

#[tokio::test(flavor = "multi_thread")]
async fn packets_grow_to_what_both_sides_take() {
    let key = Keypair::generate_ed25519();
    let mut flow = Flow::direct(own(&key)).await;
    let sent = flow.grow(4_000).await;
    assert!(flow.connection.packet_bytes() <= UDP_PAYLOAD_BYTES_MAX);
    assert_eq!(flow.end().await, sent);
    // libp2p takes 1,472 bytes.
    let mut flow = Flow::direct(theirs(&key)).await;
    let sent = flow.grow(1_400).await;
    assert!(flow.connection.packet_bytes() <= 1_472);
    assert_eq!(flow.end().await, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_stay_as_small_as_the_path_demands() {
    // The internet's usual path.
    let (mut flow, _line) = Flow::over_line(1_472).await;
    let sent = flow.grow(1_400).await;
    assert!(flow.connection.packet_bytes() <= 1_472);
    assert_eq!(flow.end().await, sent);
    // A path that carries large packets, and then no longer.
    let (mut flow, line) = Flow::over_line(usize::MAX).await;
    let mut sent = flow.grow(4_000).await;
    line.packet_bytes_max.store(1_300, Ordering::Relaxed);
    for _ in 0..64 {
        sent += flow.send().await;
    }
    assert_eq!(flow.end().await, sent);
}
