//! As much of HTTP as one page needs.

use bytes::Bytes;
use httparse::{EMPTY_HEADER, Error, Request, Status};

/// Bytes of the head of a request.
pub(super) const HEAD_MAX: usize = 8 << 10;
/// Lines of it.
const HEADERS_MAX: usize = 64;
/// The only page.
const PATH: &str = "/metrics";

/// What a request is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Page,
    /// Status, reason, and more lines of the head.
    Refusal(&'static str, &'static str),
}

pub(super) const GARBAGE: Answer = Answer::Refusal("400 Bad Request", "");
pub(super) const NO_PAGE: Answer = Answer::Refusal("404 Not Found", "");
pub(super) const NO_METHOD: Answer = Answer::Refusal("405 Method Not Allowed", "Allow: GET\r\n");
pub(super) const TOO_LONG: Answer = Answer::Refusal("413 Content Too Large", "");
pub(super) const HEAD_TOO_LONG: Answer = Answer::Refusal("431 Request Header Fields Too Large", "");

/// The answer to what has come so far; none as long as the head is not whole.
pub(super) fn judge(bytes: &[u8]) -> Option<Answer> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Partial) => None,
        Err(Error::TooManyHeaders) => Some(HEAD_TOO_LONG),
        Err(_) => Some(GARBAGE),
        Ok(Status::Complete(_)) => Some(judge_head(&request)),
    }
}

fn judge_head(request: &Request<'_, '_>) -> Answer {
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    let has_body = request.headers.iter().any(|header| {
        is(header.name, "transfer-encoding")
            || is(header.name, "content-length") && header.value != b"0"
    });
    // Who scrapes may add parameters, and they mean nothing here.
    let path = request.path.unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    match request.method {
        _ if has_body => TOO_LONG,
        _ if path != PATH => NO_PAGE,
        Some("GET") => Answer::Page,
        _ => NO_METHOD,
    }
}

/// The pieces of an answer.
pub(super) fn compose(answer: Answer, page: &Bytes) -> Vec<Bytes> {
    let ends = "Connection: close\r\n\r\n";
    match answer {
        Answer::Page => {
            let len = page.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
                 Content-Length: {len}\r\n{ends}"
            );
            vec![head.into(), page.clone()]
        }
        Answer::Refusal(status, more) => {
            vec![format!("HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\n{ends}").into()]
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_page_is_there_for_get_alone() {
        for (head, want) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Answer::Page),
            ("GET /metrics?a=b HTTP/1.0\r\n\r\n", Answer::Page),
            (
                "GET /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
                Answer::Page,
            ),
            ("GET / HTTP/1.1\r\n\r\n", NO_PAGE),
            ("POST /other HTTP/1.1\r\n\r\n", NO_PAGE),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", NO_METHOD),
            ("DELETE /metrics HTTP/1.1\r\n\r\n", NO_METHOD),
            (
                "POST /metrics HTTP/1.1\r\ncontent-length: 5\r\n\r\nabcde",
                TOO_LONG,
            ),
            (
                "POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                TOO_LONG,
            ),
            ("*1\r\n$4\r\nPING\r\n", GARBAGE),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", GARBAGE),
            ("\u{16}\u{3}\u{1}\r\n", GARBAGE),
        ] {
            assert_eq!(judge(head.as_bytes()), Some(want), "{head}");
        }
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        let many = format!("GET /metrics HTTP/1.1\r\n{many}\r\n");
        assert_eq!(judge(many.as_bytes()), Some(HEAD_TOO_LONG));
    }

    proptest! {
        #[test]
        fn a_head_has_one_answer_however_it_comes(cut in 0usize..60, bytes: Vec<u8>) {
            let whole = b"GET /metrics HTTP/1.1\r\nHost: there\r\nAccept: text/plain\r\n\r\n";
            prop_assert!(cut >= whole.len() || judge(&whole[..cut]).is_none());
            prop_assert_eq!(judge(whole), Some(Answer::Page));
            // Whatever comes instead is no page.
            prop_assert_ne!(judge(&bytes), Some(Answer::Page));
        }
    }
}
