//! Runs a scenario to its rest: takes what is next from the agenda, and lets operators and the checker look at what came of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::check::Met;
use crate::operator::Running;
use crate::scenario::Scenario;
use crate::world::{Happening, Order, World};

/// More than any run takes that comes to rest.
const STEPS_MAX: u64 = 200_000;

/// How long a world at rest is watched for whether it stays so.
const REST_MS: i64 = 300_000;

/// What a run came to.
pub(crate) struct Done {
    pub(crate) met: Met,
    pub(crate) steps: u64,
    /// Writes of operators.
    pub(crate) writes: u64,
}

/// Runs it; if it fails, a second time for its trace, which ends with what failed.
pub(crate) fn run(scenario: &Scenario, at_rest: &dyn Fn(&World)) -> Result<Done, Vec<String>> {
    let attempt = |traced: bool| {
        let world = Arc::new(Mutex::new(World::new(scenario.clone(), traced)));
        let mut simulation = Simulation::new(&world);
        let done = catch_unwind(AssertUnwindSafe(|| simulation.run(at_rest)));
        drop(simulation);
        let mut trace = world.lock().take_trace();
        done.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or_default();
            trace.push(text.to_owned());
            trace
        })
    };
    attempt(false).map_err(|_| match attempt(true) {
        Ok(_) => vec!["it does not fail again: something is not fixed by the seed".to_owned()],
        Err(trace) => trace,
    })
}

/// Prints the trace of one that failed, and gives its end: what the checker has to say.
pub(crate) fn tell(trace: &[String]) -> &str {
    println!("{}", trace.join("\n"));
    let end = trace.last().and_then(|end| end.lines().next());
    end.unwrap_or_default()
}

struct Simulation {
    world: Arc<Mutex<World>>,
    operators: Vec<Running>,
    begun: u64,
    writes: Arc<Mutex<u64>>,
    steps: u64,
    /// Changes of pods that the checker has looked at.
    pods_seen: usize,
}

impl Simulation {
    fn new(world: &Arc<Mutex<World>>) -> Simulation {
        Simulation {
            world: Arc::clone(world),
            operators: Vec::new(),
            begun: 0,
            writes: Arc::default(),
            steps: 0,
            pods_seen: 0,
        }
    }

    fn run(&mut self, at_rest: &dyn Fn(&World)) -> Done {
        self.begin();
        let end_ms = self.world.lock().scenario.end_ms;
        self.until(end_ms);
        {
            let world = self.world.lock();
            if world.scenario.rests {
                world.check.assert_settled(&world.store, |name| world.run_of(name));
            }
            at_rest(&world);
        }
        if self.world.lock().scenario.rests {
            self.stay_at_rest();
        }
        let mut world = self.world.lock();
        Done {
            met: std::mem::take(&mut world.check.met),
            steps: self.steps,
            writes: *self.writes.lock(),
        }
    }

    /// Goes on until nothing is on the agenda, or it is that late.
    fn until(&mut self, end_ms: i64) {
        loop {
            let happening = {
                let mut world = self.world.lock();
                if world.next_ms().is_none_or(|next_ms| next_ms > end_ms) {
                    return;
                }
                world.next()
            };
            let Some(happening) = happening else { return };
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "it does not come to rest");
            self.step(happening);
        }
    }

    fn step(&mut self, happening: Happening) {
        match happening {
            Happening::Begin => self.begin(),
            Happening::Deliver { process, kind } => {
                if let Some(operator) = find(&mut self.operators, process) {
                    operator.deliver(&mut self.world.lock(), kind);
                }
            }
            Happening::Report { process, uid, report } => {
                if let Some(operator) = find(&mut self.operators, process) {
                    operator.hear(&uid, *report);
                }
            }
            Happening::Go { process } => {
                if let Some(operator) = find(&mut self.operators, process) {
                    operator.go();
                }
            }
            Happening::Wake { process } => {
                if let Some(operator) = find(&mut self.operators, process) {
                    operator.idle = false;
                }
            }
            other => self.world.lock().happen(other),
        }
        let orders = std::mem::take(&mut self.world.lock().orders);
        orders.into_iter().for_each(|order| self.obey(order));
        self.bury();
        let mut world = self.world.lock();
        world.look_at_acts();
        for operator in &mut self.operators {
            operator.look(&mut world);
        }
        if world.store.pod_log.len() != self.pods_seen {
            self.pods_seen = world.store.pod_log.len();
            world.check.assert_consistent(&world.store);
        }
        drop(world);
        for operator in &mut self.operators {
            operator.kick();
        }
    }

    fn begin(&mut self) {
        self.begun += 1;
        let crash_after = self.world.lock().scenario.crash_after_write;
        let running = Running::new(self.begun, &self.world, crash_after, &self.writes);
        self.operators.push(running);
        let mut world = self.world.lock();
        world.followers.push(self.begun);
        let id = self.begun;
        world.say(|| format!("operator {id} begins"));
        for operator in &mut self.operators {
            operator.look(&mut world);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::WatchAnew => {
                let mut world = self.world.lock();
                world.check.meet("watch began anew");
                self.operators.iter_mut().for_each(|operator| operator.list(&mut world));
            }
            Order::Die => {
                let all = self.operators.iter();
                all.for_each(|operator| operator.process.dead.store(true, Ordering::Relaxed));
            }
            Order::AnotherBegins => self.begin(),
            Order::OldestStops => {
                if self.operators.len() > 1 {
                    self.operators[0].process.dead.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// Takes away operators that have died. If none is left, another one begins in a while.
    fn bury(&mut self) {
        let before = self.operators.len();
        self.operators
            .retain(|operator| !operator.process.dead.load(Ordering::Relaxed));
        if self.operators.len() == before {
            return;
        }
        let mut world = self.world.lock();
        world.followers = self.operators.iter().map(|operator| operator.process.id).collect();
        if self.operators.is_empty() {
            let wait = world.scenario.restart_ms;
            world.later(wait.unsigned_abs(), Happening::Begin);
        }
    }

    /// All is named once more, and nothing may come of it.
    fn stay_at_rest(&mut self) {
        let writes = *self.writes.lock();
        {
            let mut world = self.world.lock();
            for operator in &mut self.operators {
                operator.list(&mut world);
                operator.name_all(&world);
                operator.look(&mut world);
            }
        }
        let end_ms = self.world.lock().now_ms + REST_MS;
        self.until(end_ms);
        assert_eq!(*self.writes.lock(), writes, "an operator at rest writes");
    }
}

fn find(operators: &mut [Running], process: u64) -> Option<&mut Running> {
    operators.iter_mut().find(|operator| operator.process.id == process)
}
