//! `ayni train watch`: what happens, line by line; in a terminal, under the lines, the curve of
//! the loss and what the node does at the moment.

use std::io::{IsTerminal as _, Stdout, stdout};

use protocol::api::{DutyKind, DutyStatus, NodeEvent};
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Paragraph, Widget as _};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

use crate::commands::status;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::clean;
use crate::text;

/// Lines of the curve and of the line under it.
const HEIGHT: u16 = 14;
/// Points of the curve that are kept: more than a wide terminal can show.
const POINTS_MAX: usize = 1_024;

/// Runs until the node stops or Ctrl-C.
pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let mut events = context.client()?.events().await?;
    let mut screen = (!context.output.is_json()).then(Screen::open).flatten();
    while let Some(event) = events.next().await {
        let event = event?;
        match &mut screen {
            Some(screen) => screen.show(&event)?,
            None => context.output.stream(&event, || clean(&line(&event)))?,
        }
    }
    drop(screen);
    context.output.remark("The node has stopped.")
}

fn line(event: &NodeEvent) -> String {
    match event {
        NodeEvent::Block { height, hash, transactions, .. } => {
            format!("block {height} {} with {transactions} transactions", hash.short())
        }
        NodeEvent::Round { model, round, phase } => {
            format!("round {round} of {}: {}", model.short(), text::name(phase))
        }
        NodeEvent::Duty { duty } => doing(duty),
        NodeEvent::Head { model, round, head, certified_by_stake_ppm } => format!(
            "head {} of {} certified in round {round} by {} of the stake",
            head.short(),
            model.short(),
            text::percent(u64::from(*certified_by_stake_ppm))
        ),
        NodeEvent::Worker { worker } => format!("worker {}", status::worker(worker)),
        NodeEvent::Missed { events } => format!("{events} events were missed"),
    }
}

fn doing(duty: &DutyStatus) -> String {
    let (kind, model) = (text::name(&duty.kind), duty.model.short());
    format!("{kind} for round {} of {model}: {}", duty.round, super::progress(duty))
}

/// A terminal with the curve at its end.
struct Screen<B: Backend> {
    terminal: Terminal<B>,
    curve: Curve,
    now: String,
}

impl Screen<CrosstermBackend<Stdout>> {
    /// None where there is no terminal, or one that cannot be steered.
    fn open() -> Option<Self> {
        if !stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return None;
        }
        let options = TerminalOptions { viewport: Viewport::Inline(HEIGHT) };
        let terminal = Terminal::with_options(CrosstermBackend::new(stdout()), options).ok()?;
        Some(Self { terminal, curve: Curve::default(), now: String::new() })
    }
}

impl<B: Backend> Screen<B>
where
    B::Error: std::fmt::Display,
{
    fn show(&mut self, event: &NodeEvent) -> Result<(), Failure> {
        if let NodeEvent::Duty { duty } = event
            && !duty.finished
            && duty.error.is_none()
        {
            self.now = clean(&doing(duty));
            if let (DutyKind::Train, Some(loss)) = (duty.kind, duty.loss_nanonats) {
                self.curve.push(duty.round, duty.progress.done, loss);
            }
        } else {
            let line = clean(&line(event)).replace('\n', " ");
            let said = self.terminal.insert_before(1, |buffer| {
                Paragraph::new(line).render(buffer.area, buffer);
            });
            said.map_err(unusable)?;
        }
        let (curve, now) = (&self.curve, self.now.as_str());
        self.terminal.draw(|frame| draw(frame, curve, now)).map_err(unusable)?;
        Ok(())
    }
}

fn unusable(error: impl std::fmt::Display) -> Failure {
    Failure::new(crate::failure::FAILED, format!("the terminal cannot be drawn on: {error}"))
        .with_hint("`ayni train watch | cat` prints lines only")
}

fn draw(frame: &mut Frame<'_>, curve: &Curve, now: &str) {
    let [above, below] =
        Layout::vertical([Constraint::Min(3), Constraint::Length(1)]).areas(frame.area());
    if let Some(([first, last], [low, high])) = curve.bounds() {
        let dataset = Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(Color::Cyan))
            .data(&curve.points);
        let steps = [format!("{first:.0}"), format!("{last:.0} steps")];
        let losses = [format!("{low:.3}"), format!("{high:.3} nats")];
        let chart = Chart::new(vec![dataset])
            .x_axis(Axis::default().bounds([first, last]).labels(steps.map(Line::from)))
            .y_axis(Axis::default().bounds([low, high]).labels(losses.map(Line::from)));
        frame.render_widget(chart, above);
    } else {
        frame.render_widget(Paragraph::new("No step was trained since the watch began."), above);
    }
    frame.render_widget(Paragraph::new(now), below);
}

/// Losses against the steps seen, thinned out when there are many.
#[derive(Default)]
struct Curve {
    points: Vec<(f64, f64)>,
    /// Steps seen in rounds before the present one.
    before: u64,
    /// The present round and its last step.
    last: Option<(u32, u64)>,
}

impl Curve {
    fn push(&mut self, round: u32, step: u64, loss_nanonats: u64) {
        match self.last {
            // The same report again: a duty tells more than its steps.
            Some((known, last)) if known == round && step <= last => return,
            Some((known, last)) if known != round => self.before = self.before.saturating_add(last),
            _ => {}
        }
        self.last = Some((round, step));
        let nats = loss_nanonats as f64 / 1e9;
        self.points.push((self.before.saturating_add(step) as f64, nats));
        if self.points.len() > POINTS_MAX {
            let half = self.points.chunks(2).map(|pair| {
                let count = pair.len() as f64;
                let sum = pair.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
                (sum.0 / count, sum.1 / count)
            });
            self.points = half.collect();
        }
    }

    /// Steps and losses from the least to the greatest; never an empty range.
    fn bounds(&self) -> Option<([f64; 2], [f64; 2])> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        let fold = |start: f64, pick: fn(f64, f64) -> f64| {
            self.points.iter().map(|point| point.1).fold(start, pick)
        };
        let (low, high) = (fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max));
        let margin = ((high - low) * 0.05).max(1e-3);
        Some(([first.0, last.0.max(first.0 + 1.0)], [low - margin, high + margin]))
    }
}

#[cfg(test)]
mod tests {
    use protocol::api::JobProgress;
    use protocol::ids::ModelId;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn the_curve_goes_on_over_rounds_and_stays_bounded() {
        let mut curve = Curve::default();
        for round in 1..=50 {
            for step in 1..=100 {
                curve.push(round, step, 3_000_000_000 - u64::from(round) * 1_000_000);
                curve.push(round, step, 9_000_000_000);
            }
        }
        assert!(curve.points.len() <= POINTS_MAX);
        assert!(curve.points.is_sorted_by(|a, b| a.0 < b.0), "steps go on from round to round");
        let ([first, last], [low, high]) = curve.bounds().expect("points");
        assert!(first < 500.0 && last > 4_500.0, "{first} {last}");
        assert!(low < 2.951 && high > 2.998 && high < 3.1, "{low} {high}");
        assert!(Curve::default().bounds().is_none());
    }

    #[test]
    fn the_screen_shows_lines_curve_and_duty() {
        let options = TerminalOptions { viewport: Viewport::Inline(HEIGHT) };
        let terminal =
            Terminal::with_options(TestBackend::new(100, 30), options).expect("a test terminal");
        let mut screen = Screen { terminal, curve: Curve::default(), now: String::new() };
        let duty = |done, loss| NodeEvent::Duty {
            duty: DutyStatus {
                kind: DutyKind::Train,
                model: ModelId::default(),
                round: 3,
                progress: JobProgress { done, total: 30, ..JobProgress::default() },
                loss_nanonats: Some(loss),
                per_second: Some(2_048),
                eta_ms: Some(61_000),
                finished: false,
                error: None,
            },
        };
        screen.show(&NodeEvent::Missed { events: 7 }).expect("drawn");
        for step in 1..=20 {
            screen.show(&duty(step, 3_000_000_000 - step * 50_000_000)).expect("drawn");
        }
        let shown = screen.terminal.backend().to_string();
        for part in
            ["7 events were missed", "20 steps", "train for round 3", "2.0 KiB/s", "1 min 1 s left"]
        {
            assert!(shown.contains(part), "{part:?} is missing in\n{shown}");
        }
    }
}
