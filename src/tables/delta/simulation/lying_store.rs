//! A store in memory with false answers: it says that it has not done a write that it has done, lists fewer objects
//! than it has, and refuses writers that it should not.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::logstore::object_store::memory::InMemory;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use crate::core::random::Random;

/// Faults that are planted, and that the simulation must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Planted {
    #[default]
    Nothing,
    /// The library gets the answers of the store as they are: it takes its own entry for that of another writer.
    NoReadingBack,
    /// The same, and new entries of the log are not found when they are read, so that the table seems not to have the batch.
    NoWitness,
}

/// A false answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FalseAnswer {
    /// It does nothing, and answers 500.
    Refused,
    /// It writes the object, and answers 500.
    AnswerLost,
    /// It writes the object, and answers that the object exists already.
    Exists,
    /// It answers 500, and writes the object later.
    Late,
    /// It answers 500, and writes half of the object.
    Torn,
}

/// A statement of another writer that runs in the middle of a commit.
pub(super) type Interruption = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// The objects of the store, and the decisions about its answers. Each writer uses them through a [`LyingStore`] store of its own.
pub(super) struct World {
    pub(super) objects: Arc<InMemory>,
    pub(super) planted: Planted,
    state: Mutex<State>,
    interruption: Mutex<Option<Interruption>>,
}

struct State {
    random: Random,
    honest: bool,
    late: Vec<(Path, PutPayload, PutOptions)>,
    /// The last two entries of the log: an old list lacks them.
    newest: VecDeque<Path>,
    /// How many calls of each writer are still to be refused.
    denied: [u32; 8],
    /// How many statements are running within the commits of others.
    depth: u32,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub(super) fn new(seed: u64, planted: Planted) -> Arc<Self> {
        let state = State {
            random: Random::new(seed),
            honest: false,
            late: Vec::new(),
            newest: VecDeque::new(),
            denied: [0; 8],
            depth: 0,
        };
        Arc::new(Self {
            objects: Arc::default(),
            planted,
            state: Mutex::new(state),
            interruption: Mutex::new(None),
        })
    }

    /// A number below `end`, from the seed.
    pub(super) fn below(&self, end: u64) -> u64 {
        self.state.lock().unwrap().random.below(end)
    }

    pub(super) fn interrupt_with(&self, interruption: Interruption) {
        *self.interruption.lock().unwrap() = Some(interruption);
    }

    /// Does all late writes. From now on the store's answers are true.
    pub(super) fn become_honest(&self) {
        *self.interruption.lock().unwrap() = None;
        self.state.lock().unwrap().honest = true;
        self.let_late_writes_in();
    }

    fn let_late_writes_in(&self) {
        let late = std::mem::take(&mut self.state.lock().unwrap().late);
        for (path, payload, options) in late {
            // An object that another writer has written meanwhile stays as it is.
            if let Some(Ok(_)) = self
                .objects
                .put_opts(&path, payload, options)
                .now_or_never()
            {
                self.state.lock().unwrap().saw(&path);
            }
        }
    }

    async fn interrupt(&self) {
        let interruption = {
            let mut state = self.state.lock().unwrap();
            if state.honest || state.depth >= 2 || !state.random.chance(300) {
                return;
            }
            let Some(interruption) = self.interruption.lock().unwrap().clone() else {
                return;
            };
            state.depth += 1;
            interruption
        };
        interruption().await;
        self.state.lock().unwrap().depth -= 1;
    }
}

impl State {
    fn saw(&mut self, path: &Path) {
        if is_entry(path) {
            self.newest.push_back(path.clone());
            if self.newest.len() > 2 {
                self.newest.pop_front();
            }
        }
    }

    fn is_denied(&mut self, writer: usize) -> bool {
        if self.honest {
            return false;
        }
        if self.denied[writer] == 0 && self.random.chance(8) {
            self.denied[writer] = 1 + u32::try_from(self.random.below(12)).unwrap();
        }
        let denied = self.denied[writer] > 0;
        self.denied[writer] = self.denied[writer].saturating_sub(1);
        denied
    }

    fn lie_about(&mut self, path: &Path) -> Option<FalseAnswer> {
        let chance = if is_entry(path) { 400 } else { 50 };
        if self.honest || !self.random.chance(chance) {
            return None;
        }
        Some(match self.random.below(5) {
            0 => FalseAnswer::Refused,
            1 => FalseAnswer::AnswerLost,
            2 if is_entry(path) => FalseAnswer::Exists,
            3 => FalseAnswer::Late,
            // No store that a log may be in writes half of an entry.
            4 if !path.as_ref().contains("_delta_log") => FalseAnswer::Torn,
            _ => FalseAnswer::AnswerLost,
        })
    }
}

/// The store of one writer.
#[derive(Debug)]
pub(super) struct LyingStore {
    pub(super) world: Arc<World>,
    pub(super) writer: usize,
}

impl fmt::Display for LyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that lies")
    }
}

pub(super) fn is_entry(path: &Path) -> bool {
    path.as_ref().contains("_delta_log/") && path.as_ref().ends_with(".json")
}

fn failed() -> StoreError {
    StoreError::Generic {
        store: "simulated",
        source: "500".into(),
    }
}

impl LyingStore {
    fn may_ask(&self, path: &Path) -> Result<()> {
        if self.world.state.lock().unwrap().is_denied(self.writer) {
            return Err(StoreError::PermissionDenied {
                path: path.to_string(),
                source: "403".into(),
            });
        }
        Ok(())
    }

    /// Whether a fault happens now that happens so many times of a thousand.
    fn chance(&self, per_mille: u64) -> bool {
        let mut state = self.world.state.lock().unwrap();
        !state.honest && state.random.chance(per_mille)
    }

    async fn put(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let put = self.world.objects.put_opts(path, payload, options).await?;
        self.world.state.lock().unwrap().saw(path);
        Ok(put)
    }
}

#[async_trait]
impl ObjectStore for LyingStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if is_entry(path) {
            self.world.interrupt().await;
        }
        self.may_ask(path)?;
        let lie = self.world.state.lock().unwrap().lie_about(path);
        let done = match lie {
            None => self.put(path, payload, options).await,
            Some(FalseAnswer::Refused) => Err(failed()),
            Some(FalseAnswer::AnswerLost) => {
                let done = self.put(path, payload, options).await;
                done.and_then(|_| Err(failed()))
            }
            Some(FalseAnswer::Exists) => {
                let done = self.put(path, payload, options).await;
                done.and_then(|_| {
                    Err(StoreError::AlreadyExists {
                        path: path.to_string(),
                        source: "412".into(),
                    })
                })
            }
            Some(FalseAnswer::Late) => {
                let mut state = self.world.state.lock().unwrap();
                state.late.push((path.clone(), payload, options));
                Err(failed())
            }
            Some(FalseAnswer::Torn) => {
                let bytes = Bytes::from(payload);
                let half = bytes.slice(..bytes.len() / 2);
                let _ = self.put(path, half.into(), options).await;
                Err(failed())
            }
        };
        if is_entry(path) {
            self.world.interrupt().await;
        }
        if self.world.below(3) == 0 {
            self.world.let_late_writes_in();
        }
        done
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.world.objects.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.may_ask(path)?;
        if self.chance(15) {
            return Err(failed());
        }
        let forgotten = {
            let mut state = self.world.state.lock().unwrap();
            let forgets = self.world.planted == Planted::NoWitness && !state.honest;
            forgets && state.newest.contains(path) && state.random.chance(500)
        };
        if forgotten {
            return Err(StoreError::NotFound {
                path: path.to_string(),
                source: "404".into(),
            });
        }
        self.world.objects.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if self.chance(100) {
            return paths
                .and_then(|_| async { Err::<Path, _>(failed()) })
                .boxed();
        }
        self.world.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        if let Err(denied) = self.may_ask(&path) {
            return futures::stream::once(async move { Err(denied) }).boxed();
        }
        if self.chance(15) {
            return futures::stream::once(async { Err(failed()) }).boxed();
        }
        let mut lacks = Vec::new();
        if self.chance(60) {
            let state = self.world.state.lock().unwrap();
            lacks.extend(state.newest.iter().cloned());
        }
        let listed = self.world.objects.list(prefix);
        let keep =
            move |found: &ObjectMeta| futures::future::ready(!lacks.contains(&found.location));
        listed.try_filter(keep).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.world.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.world.objects.copy_opts(from, to, options).await
    }
}
