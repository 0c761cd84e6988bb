//! The caches of a process of shared mode: one of its own, one in Redis behind it, and the ear for what workers write.

use std::sync::Arc;
use std::time::Duration;

use super::Role;
use crate::cache::LocalCache;
use crate::cache::shared::news::NewsThread;
use crate::cache::shared::{SharedCache, SharedCacheThread};
use crate::cache::tier::Tier;
use crate::config::Config;
use crate::engine::watch::Watch;
use crate::queue::redis::client::Server;
use crate::queue::redis::gate::Gate;

/// The caches, and the threads that they need.
pub(super) struct Caches {
    local: Arc<LocalCache>,
    shared: Option<SharedCacheThread>,
    news: Option<NewsThread>,
}

impl Caches {
    /// Starts what the configuration and the role ask for. Redis need not be there.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(super) fn begin(
        config: &Config,
        server: &Server,
        gate: &Arc<Gate>,
        role: Role,
        watch: &Watch,
    ) -> anyhow::Result<Self> {
        // Who takes no requests reads nothing twice, and none of its lanes would know how far the database is.
        let lifetime = if role.is_gate() { config.cache.local_ttl } else { Duration::ZERO };
        let (mut tier, mut shared, mut news) = (None::<Arc<dyn Tier>>, None, None);
        if !lifetime.is_zero() && !config.cache.redis_ttl.is_zero() {
            let guard = watch.guard("cache");
            let (cache, thread) = SharedCache::spawn(server.clone(), gate.clone(), config.cache.redis_ttl, guard)?;
            (tier, shared) = (Some(cache as Arc<dyn Tier>), Some(thread));
        }
        let (known, metrics) = (gate.clone(), gate.published().metrics.clone());
        let local = Arc::new(LocalCache::beside(lifetime, metrics, move || known.retired(), tier));
        if !lifetime.is_zero() {
            let (url, timeout) = (config.redis.url.expose(), config.redis.timeout);
            news = Some(NewsThread::spawn(url, server, timeout, local.clone(), watch.guard("news"))?);
        }
        Ok(Self { local, shared, news })
    }

    /// The one in this process.
    pub(super) fn local(&self) -> Arc<LocalCache> {
        self.local.clone()
    }

    /// Ends the threads. Nobody reads any more.
    pub(super) fn stop(self) {
        if let Some(news) = self.news {
            news.stop();
        }
        if let Some(shared) = self.shared {
            shared.stop();
        }
    }
}
