//! Work that is worth nothing once nobody waits for it, such as what a sender has read for a peer that it has left since.
//!
//! Absent on purpose: tasks, threads and orders that are drawn. A simulated world repeats itself.

use tokio::sync::oneshot;

/// Does `work` for as long as somebody waits for what it makes.
pub(super) async fn while_awaited<T>(mut waiting: oneshot::Sender<T>, work: impl Future<Output = T>) {
    let made = tokio::select! {
        biased;
        () = waiting.closed() => return,
        made = work => made,
    };
    // Whoever asked may go away at this very moment.
    let _ = waiting.send(made);
}

#[cfg(test)]
mod tests {
    use super::while_awaited;
    use std::cell::RefCell;
    use std::rc::Rc;
    use tokio::sync::{mpsc, oneshot};
    use tokio::task::{LocalSet, spawn_local, yield_now};

    /// Has something done in steps, goes away before it does what is `left`, and answers what was done, and what was made of it.
    fn check(steps: &[u8], left: &[u8]) -> (Vec<u8>, Option<usize>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let done = Rc::new(RefCell::new(Vec::new()));
            let (sender, mut receiver) = oneshot::channel();
            let (begins, mut begun) = mpsc::unbounded_channel();
            let doing = done.clone();
            let work = async move {
                while let Some(step) = begun.recv().await {
                    doing.borrow_mut().push(step);
                }
                doing.borrow().len()
            };
            let job = while_awaited(sender, work);
            let begin = |steps: &[u8]| steps.iter().for_each(|step| begins.send(*step).expect("it is waited for"));
            if steps.is_empty() {
                receiver.close();
            }
            begin(steps);
            let job = spawn_local(job);
            while done.borrow().len() < steps.len() {
                yield_now().await;
            }
            if !left.is_empty() {
                receiver.close();
                begin(left);
            }
            drop(begins);
            job.await.expect("it ends");
            let done = done.borrow().clone();
            (done, receiver.try_recv().ok())
        })
    }

    #[test]
    fn work_ends_with_whoever_waits_for_it() {
        assert_eq!(check(&[], &[1]), (vec![], None), "nobody waited when it was to begin");
        assert_eq!(check(&[1, 2], &[3]), (vec![1, 2], None), "nobody waits any more");
        assert_eq!(check(&[1, 2, 3], &[]), (vec![1, 2, 3], Some(3)));
    }
}
