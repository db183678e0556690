//! Long-lived tokio tasks that take deliveries in turn.
//!
//! Processing a delivery is a future of some kilobytes. In a new task for each delivery, it would be allocated outside the
//! allocator's fast path and moved several times before its first poll: a third of the CPU time of a task that does nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// How many idle runners are kept: some 7 MB, if that many tasks, or outcomes being stored, were ever in progress at once.
const MOST_IDLE: usize = 1024;

/// What runners do with a job.
pub(crate) trait RunJob: Send + Sync + 'static {
    type Job: Send + 'static;

    fn run_job(&self, job: Self::Job) -> impl Future<Output = ()> + Send;
}

/// Runs each job at once: there are as many runners as jobs that are awaiting something. Idle runners end when this is
/// dropped.
pub(crate) struct Runners<W: RunJob>(Arc<Shared<W>>);

struct Shared<W: RunJob> {
    work: Arc<W>,
    state: Mutex<State<W::Job>>,
    /// A permit for each idle runner that is woken.
    wake: Semaphore,
    /// How many runners may be starting or waking at once. A woken task can be stuck behind one that blocks its thread; with
    /// one more than there are threads, another thread finds one that is not stuck.
    most_arriving: usize,
}

struct State<J> {
    jobs: VecDeque<J>,
    idle: usize,
    /// How many runners were woken or spawned and have not looked for a job yet.
    arriving: usize,
    is_over: bool,
}

impl<W: RunJob> Runners<W> {
    pub(crate) fn new(work: Arc<W>) -> Self {
        let threads = tokio::runtime::Handle::current().metrics().num_workers();
        let state = State { jobs: VecDeque::new(), idle: 0, arriving: 0, is_over: false };
        Self(Arc::new(Shared {
            work,
            state: Mutex::new(state),
            wake: Semaphore::new(0),
            most_arriving: threads + 1,
        }))
    }

    /// Runs a job at once, whatever the other jobs await.
    pub(crate) fn run(&self, job: W::Job) {
        let mut state = self.0.state();
        state.jobs.push_back(job);
        self.0.wake_another(state);
    }
}

impl<W: RunJob> Drop for Runners<W> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_over = true;
        let idle = std::mem::take(&mut state.idle);
        state.arriving += idle;
        drop(state);
        self.0.wake.add_permits(idle);
    }
}

impl<W: RunJob> Shared<W> {
    fn state(&self) -> MutexGuard<'_, State<W::Job>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes or spawns a runner for the remaining jobs. Called with each job that is added or taken.
    fn wake_another(self: &Arc<Self>, mut state: MutexGuard<'_, State<W::Job>>) {
        if state.jobs.is_empty() || state.arriving >= self.most_arriving {
            return;
        }
        state.arriving += 1;
        if state.idle > 0 {
            state.idle -= 1;
            drop(state);
            self.wake.add_permits(1);
        } else {
            drop(state);
            tokio::spawn(Arc::clone(self).run());
        }
    }

    /// What a runner does next.
    fn next(self: &Arc<Self>, comes: From) -> Next<W::Job> {
        let mut state = self.state();
        if comes == From::Woken {
            state.arriving -= 1;
        }
        if let Some(job) = state.jobs.pop_front() {
            self.wake_another(state);
            return Next::Run(job);
        }
        if state.is_over || state.idle >= MOST_IDLE {
            return Next::End;
        }
        state.idle += 1;
        Next::Wait
    }

    async fn run(self: Arc<Self>) {
        let mut comes = From::Woken;
        loop {
            comes = match self.next(comes) {
                Next::Run(job) => {
                    self.work.run_job(job).await;
                    // Jobs that never wait would keep other tasks off this thread.
                    tokio::task::consume_budget().await;
                    From::Job
                }
                Next::Wait => {
                    self.wake.acquire().await.expect("the semaphore is never closed").forget();
                    From::Woken
                }
                Next::End => return,
            };
        }
    }
}

/// What a runner did before it looks for a job.
#[derive(PartialEq, Eq)]
enum From {
    /// It was just spawned or woken.
    Woken,
    Job,
}

enum Next<J> {
    Run(J),
    Wait,
    End,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::{Barrier, mpsc};
    use tokio::time::timeout;

    use super::*;

    enum Job {
        Meet,
        /// Blocks its thread until it is signalled.
        Block(std::sync::mpsc::Receiver<()>),
        Panic,
    }

    struct Meeting {
        all: Barrier,
        done: mpsc::UnboundedSender<()>,
    }

    impl RunJob for Meeting {
        type Job = Job;

        async fn run_job(&self, job: Job) {
            match job {
                Job::Meet => {
                    self.all.wait().await;
                }
                Job::Block(until) => until.recv().expect("the word"),
                Job::Panic => panic!("a fault in the pipe"),
            }
            let _ = self.done.send(());
        }
    }

    fn meeting(of: usize) -> (Runners<Meeting>, mpsc::UnboundedReceiver<()>) {
        let (done, ended) = mpsc::unbounded_channel();
        (Runners::new(Arc::new(Meeting { all: Barrier::new(of), done })), ended)
    }

    async fn all_end(ended: &mut mpsc::UnboundedReceiver<()>, count: usize) {
        for _ in 0..count {
            timeout(Duration::from_secs(10), ended.recv()).await.expect("it ends").expect("runners");
        }
    }

    #[tokio::test]
    async fn jobs_that_wait_for_each_other_all_run() {
        let many = MOST_IDLE + 100;
        let (runners, mut ended) = meeting(many);
        for _ in 0..2 {
            (0..many).for_each(|_| runners.run(Job::Meet));
            all_end(&mut ended, many).await;
            tokio::task::yield_now().await;
            assert_eq!(runners.0.state().idle, MOST_IDLE);
        }
        drop(runners);
        assert!(ended.recv().await.is_none(), "the runners end");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_job_that_blocks_its_thread_does_not_hold_up_others() {
        let (runners, mut ended) = meeting(200);
        // The second round finds idle runners.
        for _ in 0..2 {
            let (go, until) = std::sync::mpsc::channel();
            runners.run(Job::Block(until));
            (0..200).for_each(|_| runners.run(Job::Meet));
            all_end(&mut ended, 200).await;
            go.send(()).expect("it waits");
            all_end(&mut ended, 1).await;
        }
    }

    #[tokio::test]
    async fn jobs_go_on_after_one_that_panics() {
        let (runners, mut ended) = meeting(1);
        for _ in 0..5 {
            (0..10).for_each(|_| runners.run(Job::Panic));
            (0..10).for_each(|_| runners.run(Job::Meet));
            all_end(&mut ended, 10).await;
        }
    }

    #[tokio::test]
    async fn jobs_that_were_given_before_the_end_still_run() {
        let (runners, mut ended) = meeting(1);
        (0..100).for_each(|_| runners.run(Job::Meet));
        drop(runners);
        all_end(&mut ended, 100).await;
    }
}
