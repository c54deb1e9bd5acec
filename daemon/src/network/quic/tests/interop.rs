//! Against libp2p's own QUIC, in both directions.

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

/// The largest packet found towards a listener once its discovery has ended.
async fn packet_bytes(mut listener: AnyTransport, at_least: u16) -> u16 {
    let address = listen(&mut listener, loopback()).await;
    let mut incoming = serve(listener);
    let mut dialler = ours(&Keypair::generate_ed25519());
    let (_, mut connection) = within(dial(&mut dialler, address)).await.expect("dialled");
    serve(dialler);
    let (_, mut accepted) = within(incoming.recv()).await.expect("serves").expect("accepted");
    let echo = tokio::spawn(async move {
        let mut stream = accept(&mut accepted).await.expect("accepts");
        let mut buffer = vec![0; 64 * 1024];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    let mut stream = open(&mut connection).await.expect("opens");
    let chunk = vec![7; 64 * 1024];
    // Probes are sent between packets of data.
    let probing = async {
        while connection.packet_bytes() < at_least {
            stream.write_all(&chunk).await.expect("writes");
        }
    };
    within(probing).await;
    stream.close().await.expect("closes");
    within(echo).await.expect("read to the end");
    connection.packet_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_grow_to_what_both_sides_take() {
    let key = Keypair::generate_ed25519();
    // Discovery ends within 20 bytes of the bound.
    assert!(packet_bytes(own(&key), super::super::UDP_PAYLOAD_BYTES_MAX - 20).await <= 6_500);
    // libp2p takes 1,472 bytes.
    assert!(packet_bytes(theirs(&key), 1_452).await <= 1_472);
}
