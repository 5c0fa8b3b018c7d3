//! What people see of layers on their way: a bar for each on a terminal, a line for each elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::digest::Digest;
use crate::image::Descriptor;
use crate::transfer::Progress;

/// Which way the layers go; it decides the words, which are Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into the store.
    In,
    /// Out of it, to a registry.
    Out,
    /// Into an archive or a layout.
    Saved,
}

/// What is said of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Moving,
    Unpacking,
    Present,
    Mounted,
    Done,
}

impl State {
    fn word(self, direction: Direction) -> &'static str {
        match (self, direction) {
            (Self::Waiting, _) => "Waiting",
            (Self::Moving, Direction::In) => "Downloading",
            (Self::Moving, Direction::Out) => "Pushing",
            (Self::Moving, Direction::Saved) => "Writing",
            (Self::Unpacking, _) => "Extracting",
            (Self::Present, Direction::In | Direction::Saved) => "Already exists",
            (Self::Present, Direction::Out) => "Layer already exists",
            (Self::Mounted, _) => "Mounted",
            (Self::Done, Direction::In) => "Pull complete",
            (Self::Done, Direction::Out) => "Pushed",
            (Self::Done, Direction::Saved) => "Written",
        }
    }
}

/// Whoever watches on standard error: bars if it is a terminal, else lines.
pub fn watch(direction: Direction) -> Box<dyn Progress> {
    match io::stderr().is_terminal() {
        true => Box::new(Bars::new(direction)),
        false => Box::new(Lines::new(direction, io::stderr())),
    }
}

/// A line for each layer that has arrived: `4f53cda1ab34: Pull complete`.
#[derive(Debug)]
pub struct Lines<W> {
    direction: Direction,
    out: Mutex<W>,
}

impl<W: Write> Lines<W> {
    /// Lines for `out`.
    pub fn new(direction: Direction, out: W) -> Self {
        Self { direction, out: Mutex::new(out) }
    }

    fn say(&self, layer: &Digest, state: State) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has closed it doesn't want to know, and the work goes on.
        let _ = writeln!(out, "{}: {}", layer.short(), state.word(self.direction));
    }
}

impl<W: Write + Send> Progress for Lines<W> {
    fn present(&self, layer: &Digest) {
        self.say(layer, State::Present);
    }

    fn mounted(&self, layer: &Digest) {
        self.say(layer, State::Mounted);
    }

    fn noted(&self, layer: &Digest, note: &str) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(out, "{}: {note}", layer.short());
    }

    fn done(&self, layer: &Digest) {
        self.say(layer, State::Done);
    }
}

/// A bar for each layer: id, state, bytes and rate. Nothing of the terminal is changed but the cursor's place while a
/// bar is drawn, so an interrupt at any moment leaves it usable. Bars of an unfinished transfer vanish.
#[derive(Debug)]
pub struct Bars {
    direction: Direction,
    all: MultiProgress,
    layers: Mutex<HashMap<Digest, (ProgressBar, State)>>,
}

impl Bars {
    /// Bars on standard error.
    pub fn new(direction: Direction) -> Self {
        Self { direction, all: MultiProgress::new(), layers: Mutex::default() }
    }

    /// Does `change` to the layer's bar, and says `state` if that is new.
    fn with(&self, layer: &Digest, change: impl FnOnce(&ProgressBar, State) -> State) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((bar, state)) = layers.get_mut(layer) else { return };
        let now = change(bar, *state);
        if now != *state {
            *state = now;
            bar.set_message(now.word(self.direction));
        }
    }

    fn end(&self, layer: &Digest, end: State) {
        self.with(layer, |bar, _| {
            bar.set_style(style(ENDED));
            bar.finish();
            end
        });
    }
}

/// The style of a template of ours: one that is wrong would be indicatif's own bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

const MOVING: &str = "{prefix}: {msg:11} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}";
const ENDED: &str = "{prefix}: {msg}";

impl Progress for Bars {
    fn announced(&self, layer: &Descriptor) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        // An image may have the same layer twice.
        layers.entry(layer.digest).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(layer.size).with_style(style(MOVING)));
            bar.set_prefix(layer.digest.short());
            bar.set_message(State::Waiting.word(self.direction));
            (bar, State::Waiting)
        });
    }

    fn present(&self, layer: &Digest) {
        self.end(layer, State::Present);
    }

    fn mounted(&self, layer: &Digest) {
        self.end(layer, State::Mounted);
    }

    fn moved(&self, layer: &Digest, bytes: u64) {
        self.with(layer, |bar, _| {
            bar.inc(bytes);
            State::Moving
        });
    }

    fn unpacked(&self, layer: &Digest, _: u64) {
        // Both happen at once; unpacking is worth a word where only that is left to do.
        self.with(layer, |bar, state| match bar.length().is_some_and(|length| bar.position() >= length) {
            true => State::Unpacking,
            false => state,
        });
    }

    fn noted(&self, layer: &Digest, note: &str) {
        // Above the bars. A terminal that can't be written to has nobody before it.
        let _ = self.all.println(format!("{}: {note}", layer.short()));
    }

    fn done(&self, layer: &Digest) {
        self.end(layer, State::Done);
    }
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressDrawTarget;

    use super::*;

    #[test]
    fn lines_have_dockers_words_and_no_more_than_the_end() {
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        for (direction, words) in [
            (Direction::In, ["Already exists", "Mounted", "Pull complete"]),
            (Direction::Out, ["Layer already exists", "Mounted", "Pushed"]),
            (Direction::Saved, ["Already exists", "Mounted", "Written"]),
        ] {
            let lines = Lines::new(direction, Vec::new());
            lines.announced(&Descriptor::new("", a, 10));
            lines.moved(&c, 5);
            lines.noted(&b, "a note");
            lines.present(&a);
            lines.mounted(&b);
            lines.done(&c);
            let said = String::from_utf8(lines.out.into_inner().unwrap()).unwrap();
            let expected: Vec<_> =
                [a, b, c].iter().zip(words).map(|(layer, word)| format!("{}: {word}\n", layer.short())).collect();
            assert_eq!(said, format!("{}: a note\n{}", b.short(), expected.concat()));
        }
    }

    #[test]
    fn the_templates_of_bars_are_right() {
        assert!(ProgressStyle::with_template(MOVING).is_ok() && ProgressStyle::with_template(ENDED).is_ok());
    }

    #[test]
    fn each_layer_has_a_bar_that_ends_in_a_word() {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let bars = Bars { direction: Direction::In, all, layers: Mutex::default() };
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        bars.announced(&Descriptor::new("", a, 2_000_000));
        bars.announced(&Descriptor::new("", b, 10));
        bars.announced(&Descriptor::new("", b, 10));
        bars.moved(&a, 500_000);
        bars.unpacked(&a, 9);
        // Not announced: nothing to show, and nothing wrong.
        bars.done(&Digest::of(b"c"));
        bars.present(&b);
        let shown = |layer: &Digest| {
            let layers = bars.layers.lock().unwrap();
            let bar = &layers[layer].0;
            (bar.prefix(), bar.message(), bar.position(), bar.is_finished())
        };
        assert_eq!(shown(&a), (a.short(), "Downloading".into(), 500_000, false));
        bars.moved(&a, 1_500_000);
        bars.unpacked(&a, 10);
        assert_eq!(shown(&a), (a.short(), "Extracting".into(), 2_000_000, false));
        bars.done(&a);
        assert_eq!(shown(&a), (a.short(), "Pull complete".into(), 2_000_000, true));
        assert_eq!(shown(&b), (b.short(), "Already exists".into(), 10, true));
    }
}
