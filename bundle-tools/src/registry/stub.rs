//! A registry that does what a test tells it, on a port of this machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a client has sent.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What is answered: a status line and headers as they are, and bytes. The connection is closed behind it.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// How often the body is sent.
    pub(crate) times: usize,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), times: 1 }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// Runs until the test's process ends.
pub(crate) struct Stub {
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    /// Answers every request with what `answer` says. `GET /v2/` is answered with 200 unless it says otherwise (404).
    pub(crate) fn new(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::new(answer), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, seen) = (answer.clone(), seen.clone());
                std::thread::spawn(move || {
                    let _ = serve(stream.unwrap(), &*answer, &seen);
                });
            }
        });
        Self { host, log }
    }

    /// What has been asked so far, but for the first look at whether there is TLS.
    pub(crate) fn log(&self) -> Vec<Asked> {
        self.log.lock().unwrap().iter().filter(|asked| asked.path != "/v2/").cloned().collect()
    }

    /// How often `method` was used on paths that contain `part`.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.log().iter().filter(|asked| asked.method == method && asked.path.contains(part)).count()
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Asked) -> Answer, log: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let asked = Asked { method, path, headers, body };
    log.lock().unwrap().push(asked.clone());
    let mut answer = answer(&asked);
    if asked.path == "/v2/" && answer.status == 404 {
        answer = Answer::new(200, "{}");
    }
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status)?;
    if !answer.headers.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding") {
        answer = {
            let length = answer.body.len() * answer.times;
            answer.with("content-length", length)
        };
    }
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    if asked.method != "HEAD" {
        for _ in 0..answer.times {
            stream.write_all(&answer.body)?;
        }
    }
    stream.flush()
}
