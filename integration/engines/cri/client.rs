//! A client of the Container Runtime Interface: gRPC over the engine's socket, for one call at a time. Messages are
//! written and read by the numbers of their fields, which are those of the interface's `api.proto`, v1.

use std::path::PathBuf;
use std::time::Duration;

use h2::client;
use http::{HeaderMap, Request};
use orlop_shim::wire::{Fields, Message, Value};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of whoever listens at `socket`, now or later.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, runtime: Builder::new_current_thread().enable_all().build().unwrap() }
    }

    /// Calls a method of the runtime service. Its answer, or why it has none.
    pub(crate) fn call(&self, method: &str, request: &Message) -> Result<Reply, String> {
        self.runtime.block_on(async {
            let called = timeout(PATIENCE, self.exchange(method, request)).await;
            called.map_err(|_| format!("{method} hangs"))?.map_err(|e| format!("{method}: {e}"))?
        })
    }

    async fn exchange(&self, method: &str, request: &Message) -> Result<Result<Reply, String>, h2::Error> {
        let socket = match UnixStream::connect(&self.socket).await {
            Ok(socket) => socket,
            Err(e) => return Ok(Err(format!("connect: {e}"))),
        };
        let (client, connection) = client::handshake(socket).await?;
        let connection = tokio::spawn(connection);
        let head = Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (answer, mut body) = client.ready().await?.send_request(head, false)?;
        // A message is preceded by whether it is compressed, and its length.
        let mut frame = vec![0];
        frame.extend(u32::try_from(request.0.len()).unwrap().to_be_bytes());
        frame.extend(&request.0);
        body.send_data(frame.into(), true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            bytes.extend(chunk);
        }
        // An answer without a message has its status in front.
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        connection.abort();
        let field = |headers: &HeaderMap, name| headers.get(name).map(|v| v.to_str().unwrap_or("?").to_owned());
        Ok(match field(&trailers, "grpc-status").as_deref() {
            Some("0") => Ok(Reply(bytes.split_off(5))),
            code => Err(format!("status {code:?}: {}", field(&trailers, "grpc-message").unwrap_or_default())),
        })
    }
}

/// A message that was received.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply(Vec<u8>);

impl Reply {
    fn values(&self, field: u32) -> impl Iterator<Item = Value<'_>> {
        Fields::of(&self.0).map(Result::unwrap).filter(move |(number, _)| *number == field).map(|(_, value)| value)
    }

    /// A number; 0 if it is not there.
    pub(crate) fn number(&self, field: u32) -> u64 {
        self.values(field).last().map_or(0, |value| value.number().unwrap())
    }

    /// Text; empty if it is not there.
    pub(crate) fn text(&self, field: u32) -> String {
        self.values(field)
            .last()
            .map_or_else(String::new, |value| String::from_utf8_lossy(value.bytes().unwrap()).into())
    }

    /// A message; an empty one if it is not there.
    pub(crate) fn message(&self, field: u32) -> Self {
        self.messages(field).pop().unwrap_or_default()
    }

    /// All messages of a list.
    pub(crate) fn messages(&self, field: u32) -> Vec<Self> {
        self.values(field).map(|value| Self(value.bytes().unwrap().to_vec())).collect()
    }
}
