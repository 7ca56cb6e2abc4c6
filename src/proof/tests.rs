use super::*;

fn key(secret: &str) -> NodeKey {
    NodeKey::of_file(secret.as_bytes()).expect("it is long enough")
}

fn ours() -> NodeKey {
    key("a secret of many bytes")
}

fn dialer(key: NodeKey, nonce: u8) -> Dialer {
    Dialer::new(key, Purpose::Stream(3), "a", None, [nonce; 32])
}

fn listener(key: NodeKey, nonce: u8) -> Listener {
    Listener::new(key, Purpose::Stream(3), "b", [nonce; 32])
}

fn said(heard: Result<Heard, Fault>) -> String {
    match heard {
        Ok(Heard::Say(line)) => line,
        other => panic!("nothing is said: {other:?}"),
    }
}

fn proven(heard: Result<Heard, Fault>) -> String {
    match heard {
        Ok(Heard::Proven(line)) => line,
        other => panic!("not proven: {other:?}"),
    }
}

/// The four lines of a link that comes about.
fn lines() -> [String; 4] {
    let (mut dialer, mut listener) = (dialer(ours(), 1), listener(ours(), 2));
    let hello = dialer.hello();
    let challenge = said(listener.hear(hello.as_bytes()));
    let proof = said(dialer.hear(challenge.as_bytes()));
    let answer = proven(listener.hear(proof.as_bytes()));
    assert_eq!(proven(dialer.hear(answer.as_bytes())), "");
    assert_eq!(listener.peer(), "a");
    [hello, challenge, proof, answer]
}

#[test]
fn two_nodes_with_one_key_prove_it_in_four_lines() {
    let [hello, challenge, proof, answer] = lines();
    let (ones, twos) = ("01".repeat(32), "02".repeat(32));
    assert_eq!(hello, format!("+RINGKEY1 stream:3 a {ones}\r\n"));
    assert_eq!(challenge, format!("+RINGKEY1 b {twos}\r\n"));
    assert_ne!(proof, answer);
    // Computed by another implementation, so that a node of another build understands this one.
    let of = |line: &str| {
        line.strip_prefix("+PROOF ")
            .map(|proof| proof.trim_end().to_string())
    };
    assert_eq!(of(&proof).as_deref(), Some(DIALER_PROOF));
    assert_eq!(of(&answer).as_deref(), Some(LISTENER_PROOF));
}

/// Of Python's `hmac`, over the parts with their lengths as 8 bytes before them.
const DIALER_PROOF: &str = "81144f611bcb73a26609d9bc7882bda9e5027cef203526d87aa62c50f6732a10";
const LISTENER_PROOF: &str = "96e8e5c43dc6cbb7fb3bf9c4bdb24066d6ffe1361a33cbc2264e1bcdc31a059a";

#[test]
fn lines_may_come_byte_by_byte_and_are_nothing_before_their_end() {
    let [hello, challenge, proof, answer] = lines();
    let (mut dialer, mut listener) = (dialer(ours(), 1), listener(ours(), 2));
    fn feed(line: &str, mut hear: impl FnMut(&[u8]) -> Result<Heard, Fault>) -> Heard {
        let (last, rest) = line.as_bytes().split_last().expect("a line has bytes");
        for byte in rest {
            assert_eq!(hear(&[*byte]), Ok(Heard::Nothing), "{line}");
        }
        hear(&[*last]).expect("it is whole")
    }
    let listens = feed(&hello, |bytes| listener.hear(bytes));
    assert_eq!(listens, Heard::Say(challenge.clone()));
    assert_eq!(
        feed(&challenge, |bytes| dialer.hear(bytes)),
        Heard::Say(proof.clone())
    );
    let listens = feed(&proof, |bytes| listener.hear(bytes));
    assert_eq!(listens, Heard::Proven(answer.clone()));
    let dials = feed(&answer, |bytes| dialer.hear(bytes));
    assert_eq!(dials, Heard::Proven(String::new()));
}

#[test]
fn another_key_is_found_out_by_the_listener_and_told_to_the_dialer() {
    let other = key("another secret of as many");
    let (mut dialer, mut listener) = (dialer(other, 1), listener(ours(), 2));
    let challenge = said(listener.hear(dialer.hello().as_bytes()));
    let proof = said(dialer.hear(challenge.as_bytes()));
    let fault = listener
        .hear(proof.as_bytes())
        .expect_err("the key is another one");
    assert_eq!(fault, Fault::Wrong);
    let answer = fault.answer().expect("it is told");
    assert_eq!(dialer.hear(answer.as_bytes()), Err(Fault::Refused));
}

#[test]
fn a_listener_without_the_key_proves_nothing_by_what_the_dialer_said() {
    // It sends back what it gets: the dialer's nonce, and its proof.
    let mut fooled = dialer(ours(), 1);
    let nonce = "01".repeat(32);
    let proof = said(fooled.hear(format!("+RINGKEY1 b {nonce}\r\n").as_bytes()));
    assert_eq!(fooled.hear(proof.as_bytes()), Err(Fault::Wrong));
    // It has the dialer's own listener answer for it.
    let mut own = Listener::new(ours(), Purpose::Stream(3), "a", [7; 32]);
    let mut fooled = dialer(ours(), 1);
    assert_eq!(own.hear(fooled.hello().as_bytes()), Err(Fault::Name));
    assert_eq!(
        fooled.hear(format!("+RINGKEY1 a {nonce}\r\n").as_bytes()),
        Err(Fault::Name)
    );
}

#[test]
fn a_session_that_was_overheard_is_worth_nothing_later() {
    let [hello, challenge, proof, answer] = lines();
    let mut later = listener(ours(), 9);
    assert_ne!(said(later.hear(hello.as_bytes())), challenge);
    assert_eq!(later.hear(proof.as_bytes()), Err(Fault::Wrong));
    let mut later = dialer(ours(), 8);
    assert_ne!(said(later.hear(challenge.as_bytes())), proof);
    assert_eq!(later.hear(answer.as_bytes()), Err(Fault::Wrong));
}

#[test]
fn a_proof_is_for_one_purpose_and_two_names() {
    let proof_of = |purpose, dialer: &str, listener: &str| {
        let talk = Talk {
            purpose,
            dialer: dialer.into(),
            listener: listener.into(),
            dialed_with: [1; 32],
            answered_with: [2; 32],
        };
        [Side::Dialer, Side::Listener].map(|side| ours().prove(side, &talk))
    };
    let mut all: Vec<String> = [
        proof_of(Purpose::Elections, "a", "b"),
        proof_of(Purpose::Stream(0), "a", "b"),
        proof_of(Purpose::Stream(1), "a", "b"),
        proof_of(Purpose::Stream(0), "b", "a"),
        proof_of(Purpose::Stream(0), "ab", "b"),
        proof_of(Purpose::Stream(0), "a", "bb"),
    ]
    .concat();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
    let mut elections = Listener::new(ours(), Purpose::Elections, "b", [2; 32]);
    let hello = dialer(ours(), 1).hello();
    assert_eq!(elections.hear(hello.as_bytes()), Err(Fault::Purpose));
    let mut meant = Dialer::new(ours(), Purpose::Elections, "a", Some("c"), [1; 32]);
    let other = said(elections.hear(meant.hello().as_bytes()));
    assert_eq!(meant.hear(other.as_bytes()), Err(Fault::Name));
}

#[test]
fn who_knows_nothing_of_keys_is_told_so() {
    for plain in [
        &b"*6\r\n$9\r\nREPLICATE\r\n$4\r\nFROM\r\n"[..],
        b"*",
        b"hb",
        b"+PING 1 2\r\n",
        b"\x00",
        &[b'x'; 10_000],
    ] {
        assert_eq!(listener(ours(), 2).hear(plain), Err(Fault::Plain));
    }
    let answer = Fault::Plain.answer().expect("it is told");
    assert!(wants_key(answer.as_bytes()) && !is_hello(answer.as_bytes()));
    assert!(is_hello(dialer(ours(), 1).hello().as_bytes()));
    for plain in [
        &b"+ACK 1 2\r\n"[..],
        b"-ERR unknown command\r\n",
        answer.as_bytes(),
    ] {
        assert_eq!(dialer(ours(), 1).hear(plain), Err(Fault::Plain));
    }
}

#[test]
fn who_says_more_or_something_else_than_is_due_is_refused() {
    let [hello, challenge, proof, answer] = lines();
    let ones = "01".repeat(32);
    let name = "n".repeat(33);
    for bad in [
        format!("{hello}x"),
        format!("{hello}{proof}"),
        format!("+RINGKEY1 stream:3 a {ones}\n"),
        format!("+RINGKEY1 stream:3 a {ones} more\r\n"),
        format!("+RINGKEY1 stream:3 a {}\r\n", &ones[2..]),
        format!("+RINGKEY1 stream:3 a {}\r\n", "0A".repeat(32)),
        format!("+RINGKEY1 stream:3 a {}\r\n", "0\u{e9}0".repeat(16)),
        format!("+RINGKEY1 stream:3  {ones}\r\n"),
        format!("+RINGKEY1 stream:3 {name} {ones}\r\n"),
        format!("+RINGKEY1 {}", "x".repeat(LINE_MAX)),
        "+RINGKEY1 \r\n".into(),
    ] {
        assert_eq!(
            listener(ours(), 2).hear(bad.as_bytes()),
            Err(Fault::Form),
            "{bad:?}"
        );
    }
    let mut asked = listener(ours(), 2);
    said(asked.hear(hello.as_bytes()));
    assert_eq!(asked.hear(b"REPLICATE"), Err(Fault::Form));
    let mut asked = listener(ours(), 2);
    said(asked.hear(hello.as_bytes()));
    // The dialer says nothing before it has heard the listener's proof.
    assert_eq!(asked.hear(format!("{proof}x").as_bytes()), Err(Fault::Form));
    let mut asks = dialer(ours(), 1);
    assert_eq!(
        asks.hear(format!("{challenge}{answer}").as_bytes()),
        Err(Fault::Form)
    );
    let mut asks = dialer(ours(), 1);
    said(asks.hear(challenge.as_bytes()));
    assert_eq!(
        asks.hear(format!("{answer}+ACK 0 0\r\n").as_bytes()),
        Err(Fault::Form)
    );
}

#[test]
fn a_secret_has_its_length_and_shows_itself_nowhere() {
    for (bytes, is_good) in [
        (vec![b'k'; 15], false),
        (b"0123456789abcde\n".to_vec(), false),
        (b"0123456789abcdef\n".to_vec(), true),
        (b"0123456789abcdef\r\n".to_vec(), true),
        (vec![b'k'; 1024], true),
        (vec![b'k'; 1025], false),
    ] {
        let made = NodeKey::of_file(&bytes);
        assert_eq!(made.is_ok(), is_good, "{} bytes", bytes.len());
    }
    let same = |one: &str, other: &str| {
        let proof = |secret: &str| {
            let talk = dialer(key(secret), 1).talk;
            key(secret).prove(Side::Dialer, &talk)
        };
        proof(one) == proof(other)
    };
    assert!(same("0123456789abcdef", "0123456789abcdef\n"));
    assert!(!same("0123456789abcdef", "0123456789abcdef\n\n"));
    let shown = format!(
        "{:?} {:?}",
        dialer(key("0123456789abcdef"), 1),
        listener(ours(), 2)
    );
    assert!(
        !shown.contains("0123") && !shown.contains("secret"),
        "{shown}"
    );
}

proptest::proptest! {
    #[test]
    fn nothing_that_a_peer_says_opens_a_link(
        chunks in proptest::collection::vec(
            proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100), 0..6),
        begins in proptest::prelude::any::<bool>(),
    ) {
        let (mut asks, mut asked) = (dialer(ours(), 1), listener(ours(), 2));
        if begins {
            let [hello, challenge, ..] = lines();
            said(asked.hear(hello.as_bytes()));
            said(asks.hear(challenge.as_bytes()));
        }
        for chunk in chunks {
            let heard = [asked.hear(&chunk), asks.hear(&chunk)];
            for heard in heard {
                proptest::prop_assert!(!matches!(heard, Ok(Heard::Proven(_))));
            }
        }
    }
}
