//! How far a job is, on standard error: bars where somebody watches, a line now and then where a
//! transfer is logged, nothing where a program reads.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use protocol::api::{JobKind, JobProgress, JobStatus, SourceProgress};
use protocol::ids::NodeId;

use crate::output::{clean, complain, progress_is_watched};
use crate::text;

/// How often a line is written where there are no bars.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Providers with a bar of their own; a screen has few lines.
const SOURCES_SHOWN: usize = 8;
/// How often a bar moves although nothing happened.
const TICK: Duration = Duration::from_millis(120);

const COUNTED: &str = "{spinner} [{bar:30}] {percent}% {msg}";
const BYTES: &str = "{spinner} [{bar:30}] {percent}% {bytes}/{total_bytes} {msg}";
const SOURCE: &str = "  [{bar:30}] {bytes} from {prefix}, {msg}";

/// See the module.
pub(crate) enum Progress {
    /// Nobody wants to know.
    Hidden,
    /// A person watches.
    Bars(Bars),
    /// A log is written.
    Lines(Lines),
}

/// One bar in all and one for each provider.
pub(crate) struct Bars {
    all: MultiProgress,
    main: ProgressBar,
    is_bytes: bool,
    sources: BTreeMap<NodeId, ProgressBar>,
}

/// Lines now and then.
pub(crate) struct Lines {
    last: Instant,
    said: Option<JobProgress>,
}

impl Progress {
    /// For a job; `lines` says whether it is worth lines where there are no bars.
    pub(crate) fn new(is_json: bool, lines: bool) -> Self {
        if is_json {
            return Self::Hidden;
        }
        if progress_is_watched() {
            return Self::Bars(Bars::new());
        }
        let lines = lines.then(|| Lines { last: Instant::now(), said: None });
        lines.map_or(Self::Hidden, Self::Lines)
    }

    /// Shows a status.
    pub(crate) fn show(&mut self, status: &JobStatus) {
        match self {
            Self::Hidden => {}
            Self::Bars(bars) => bars.show(status),
            Self::Lines(lines) => {
                if lines.last.elapsed() >= LINE_EVERY
                    && lines.said.as_ref() != Some(&status.progress)
                {
                    lines.last = Instant::now();
                    complain(&clean(&line(&status.progress, is_bytes(status.kind))));
                    lines.said = Some(status.progress.clone());
                }
            }
        }
    }

    /// Removes what is on the screen.
    pub(crate) fn finish(self) {
        if let Self::Bars(bars) = self {
            bars.main.finish_and_clear();
            bars.sources.into_values().for_each(|bar| bar.finish_and_clear());
        }
    }
}

/// A bar for bytes that are sent; hidden where nobody watches.
pub(crate) fn upload_bar(is_json: bool, bytes: u64) -> ProgressBar {
    if is_json || !progress_is_watched() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    bar.set_style(style(BYTES));
    bar.set_message("sending");
    bar
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

const fn is_bytes(kind: JobKind) -> bool {
    matches!(kind, JobKind::AddData | JobKind::GetData | JobKind::VerifyData)
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let main = all.add(ProgressBar::new(0));
        main.set_style(style(COUNTED));
        main.enable_steady_tick(TICK);
        Self { all, main, is_bytes: false, sources: BTreeMap::new() }
    }

    fn show(&mut self, status: &JobStatus) {
        if is_bytes(status.kind) && !self.is_bytes {
            self.is_bytes = true;
            self.main.set_style(style(BYTES));
        }
        let progress = &status.progress;
        self.main.set_length(progress.total);
        self.main.set_position(progress.done);
        self.main.set_message(clean(&progress.message));
        for source in &progress.sources {
            if !self.sources.contains_key(&source.node) {
                if self.sources.len() >= SOURCES_SHOWN {
                    continue;
                }
                let bar = self.all.add(ProgressBar::new(progress.total));
                bar.set_style(style(SOURCE));
                bar.set_prefix(source.node.short());
                self.sources.insert(source.node, bar);
            }
            if let Some(bar) = self.sources.get(&source.node) {
                bar.set_length(progress.total);
                bar.set_position(source.bytes);
                bar.set_message(rate(source.bytes_per_s));
            }
        }
    }
}

fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", text::bytes(bytes_per_s))
}

fn line(progress: &JobProgress, is_bytes: bool) -> String {
    let shown = |count| if is_bytes { text::bytes(count) } else { count.to_string() };
    let mut line = progress.message.clone();
    if progress.total > 0 {
        line.push_str(&format!(": {} of {}", shown(progress.done), shown(progress.total)));
    } else if progress.done > 0 {
        line.push_str(&format!(": {}", shown(progress.done)));
    }
    let source = |source: &SourceProgress| {
        let (bytes, rate) = (text::bytes(source.bytes), rate(source.bytes_per_s));
        format!("{bytes} from {}, {rate}", source.node.short())
    };
    let sources: Vec<String> = progress.sources.iter().take(SOURCES_SHOWN).map(source).collect();
    if !sources.is_empty() {
        line.push_str(&format!(" ({})", sources.join("; ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_much_from_whom() {
        let node = NodeId::from_bytes([0xab; 32]);
        let sources = vec![SourceProgress { node, bytes: 1 << 20, bytes_per_s: 3 << 19 }];
        let progress =
            JobProgress { done: 1 << 20, total: 1 << 30, message: "fetching".to_owned(), sources };
        let short = node.short();
        let expect = format!("fetching: 1.0 MiB of 1.0 GiB (1.0 MiB from {short}, 1.5 MiB/s)");
        assert_eq!(line(&progress, true), expect);
        let plain = JobProgress { done: 3, message: "reading".to_owned(), ..Default::default() };
        assert_eq!(line(&plain, false), "reading: 3");
    }
}
