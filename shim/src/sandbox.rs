//! The sandbox service: pods, for an engine that leaves them to the shim (`sandboxer = "shim"` in containerd 2's
//! configuration). A pod's process is a container like others, made by the task service from a configuration that is
//! written [here](crate::pod); this says what the pod adds to it.

use crate::daemon::Daemon;
use crate::message::{CreateSandbox, Sandbox, Time};
use crate::pod::Pod;
use crate::server::Caller;
use crate::service::{Reply, What};
use crate::task::Phase;
use crate::ttrpc::{Code, Status};
use crate::wire::Message;

/// The service's name.
pub const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// SIGKILL: a pod's process has nothing to finish.
const KILL: u32 = 9;

/// The words of the Container Runtime Interface, which containerd looks for.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

impl Daemon {
    /// Answers a call of the sandbox service; `None` for a method that it does not have.
    pub(crate) fn sandbox(&mut self, caller: Caller, method: &str, payload: &[u8]) -> Option<Reply> {
        Some(match method {
            "CreateSandbox" => self.create_sandbox(caller, payload),
            "StartSandbox" => self.of_the_pod(payload).and_then(|id| self.start(caller, &id.0)),
            "Platform" => Ok(Some(platform())),
            "StopSandbox" => {
                self.of_the_pod(payload).and_then(|id| self.kill(caller, &id.number(3, KILL).flag(4, true).0))
            }
            // The answer's fields are those of the task service's.
            "WaitSandbox" => self.of_the_pod(payload).and_then(|id| self.wait(caller, &id.0)),
            "SandboxStatus" => self.sandbox_status(payload),
            "PingSandbox" => self.of_the_pod(payload).map(|_| Some(Message::new())),
            "ShutdownSandbox" => self.shutdown_sandbox(caller),
            "SandboxMetrics" => self.sandbox_metrics(payload),
            _ => return None,
        })
    }

    /// The pod's id in a request of the task service, if it is the pod that is spoken of.
    fn of_the_pod(&self, payload: &[u8]) -> Result<Message, Status> {
        let request = Sandbox::read(payload)?;
        match &self.pod {
            Some(pod) if pod.id == request.sandbox_id => Ok(Message::new().text(1, &pod.id)),
            _ => Err(Status::new(Code::NotFound, format!("sandbox {}: not found", request.sandbox_id))),
        }
    }

    fn create_sandbox(&mut self, caller: Caller, payload: &[u8]) -> Reply {
        let request = CreateSandbox::read(payload)?;
        let pod = Pod::of(&request)?;
        if let Some(pod) = &self.pod {
            return Err(Status::new(Code::AlreadyExists, format!("sandbox {}: already exists", pod.id)));
        }
        let create = Message::new().text(1, &pod.id).text(2, request.bundle_path);
        self.pod = Some(pod);
        self.create(caller, &create.0).inspect_err(|_| self.pod = None)
    }

    fn sandbox_status(&self, payload: &[u8]) -> Reply {
        self.of_the_pod(payload)?;
        let Some(pod) = &self.pod else { return Ok(None) };
        let init = self.containers.0.get(&pod.id).map(|container| &container.init);
        let is_ready = init.is_some_and(|init| init.phase == Phase::Running);
        let mut answer = Message::new()
            .text(1, &pod.id)
            .number(2, init.map_or(0, |init| init.pid))
            .text(3, if is_ready { READY } else { NOT_READY });
        if let Some(started) = pod.started {
            answer = answer.message(5, &started.message());
        }
        if let Some(init) = init.filter(|init| init.phase == Phase::Stopped) {
            answer = answer.message(6, &init.exit.at.message());
        }
        Ok(Some(answer))
    }

    /// Ends what is left of the pod, and then this process. Without a pod it only leaves.
    fn shutdown_sandbox(&mut self, caller: Caller) -> Reply {
        let Some(pod) = &self.pod else {
            self.leaving |= self.containers.0.is_empty();
            return Ok(Some(Message::new()));
        };
        let id = pod.id.clone();
        match self.containers.get_mut(&id) {
            Ok(container) => {
                container.init.deleting = true;
                self.delete_container(&id, caller)
            }
            // Not made, or about to be made: `delete` ends that.
            Err(_) => {
                self.forget_pod();
                Ok(Some(Message::new()))
            }
        }
    }

    fn sandbox_metrics(&self, payload: &[u8]) -> Reply {
        let id = self.of_the_pod(payload)?;
        let Some(stats) = self.stats(&id.0)? else { return Ok(None) };
        let request = Sandbox::read(payload)?;
        let any = crate::wire::Fields::of(&stats.0).find_map(|field| match field {
            Ok((1, value)) => value.bytes().ok(),
            _ => None,
        });
        let metric = Message::new().message(1, &Time::now().message()).text(2, request.sandbox_id);
        Ok(Some(Message::new().message(1, &metric.bytes(3, any.unwrap_or_default()))))
    }

    /// What the sandbox service says where the task service says `answer`.
    pub(crate) fn for_a_pod(&mut self, what: What, answer: Message) -> Message {
        match what {
            What::Start => {
                let now = Time::now();
                if let Some(pod) = &mut self.pod {
                    pod.started = Some(now);
                }
                answer.message(2, &now.message())
            }
            What::Delete => {
                self.forget_pod();
                Message::new()
            }
            _ => Message::new(),
        }
    }

    fn forget_pod(&mut self) {
        if let Some(pod) = self.pod.take() {
            pod.dissolve();
        }
        // What else was in it, `delete` ends.
        self.leaving = true;
    }
}

/// What containers are made for.
fn platform() -> Message {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Message::new().message(1, &Message::new().text(1, "linux").text(2, architecture))
}
