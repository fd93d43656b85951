//! Authentication gate: identifies the caller before every call of every service. A call that is not named here needs a
//! logged-in caller.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use tower::{Layer, Service};

use crate::server::auth::login::Login;
use crate::server::flight::status::status;
use crate::server::network::admission::FirstCall;

/// Whether the server is well.
const OPEN: [&str; 2] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// Puts the caller into the extensions of each request.
#[derive(Clone)]
pub(crate) struct AuthLayer {
    login: Arc<Login>,
}

impl AuthLayer {
    pub(crate) fn new(login: Arc<Login>) -> Self {
        Self { login }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService {
            inner,
            login: Arc::clone(&self.login),
        }
    }
}

/// A service behind a [`AuthLayer`].
#[derive(Clone)]
pub(crate) struct AuthService<S> {
    inner: S,
    login: Arc<Login>,
}

impl<S, B, A> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<B>, Response = Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    A: Default + Send,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<A>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let waiting = self.inner.clone();
        // `poll_ready` was called on this service, so this one is called, and not its clone.
        let mut inner = std::mem::replace(&mut self.inner, waiting);
        let first = FirstCall::of(request.extensions());
        let login = Arc::clone(&self.login);
        if OPEN.contains(&request.uri().path()) {
            return Box::pin(inner.call(request));
        }
        Box::pin(async move {
            let known = login.caller(request.headers()).await;
            match known.and_then(|caller| first.identify_caller(&caller).map(|()| caller)) {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(error) => Ok(status(&error).into_http()),
            }
        })
    }
}
