//! Authentication: a user with a password, a token of this server or of the file of users, or the token of another
//! issuer.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::error::{Error, ErrorKind, Result};
use crate::server::auth::access::Caller;
use crate::server::auth::errors::unknown;
use crate::server::auth::issuer::Issuer;
use crate::server::auth::users::{User, Users, hash_password, is_password};
use crate::server::counters::StatementCounters;
use crate::server::queries::limits::QUERY_LOG;

/// The cookie by which clients without a token keep a session.
pub(crate) const COOKIE_NAME: &str = "arrow_flight_session_id";
/// A login lasts so long.
const LASTS: Duration = Duration::from_secs(12 * 3_600);
/// A password is not hashed again for so long: some clients send it with every call.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Passwords that are hashed at the same time: each takes 19 MiB and tens of milliseconds.
const HASHED_AT_ONCE: usize = 2;

/// The most different passwords for one name that are hashed or wait for it; a login with one more is refused for now.
const WAITING_FOR_A_NAME: usize = 4;

/// Some clients leave the padding out.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Options of the login: the users, and an issuer of tokens.
#[derive(Debug, Clone, Default)]
pub struct LoginOptions {
    /// The file of users.
    pub users: Option<PathBuf>,
    /// Keys of another issuer of tokens, as a JSON Web Key Set.
    pub jwks: Option<PathBuf>,
    /// The `iss` that its tokens must have.
    pub jwt_issuer: Option<String>,
    /// The `aud` that its tokens must have.
    pub jwt_audience: Option<String>,
}

impl LoginOptions {
    /// Whether callers have to log in.
    pub fn is_closed(&self) -> bool {
        self.users.is_some() || self.jwks.is_some()
    }
}

/// Identifies the callers of all services.
pub(crate) struct Login {
    users: Option<Users>,
    issuer: Option<Issuer>,
    is_closed: bool,
    /// Signs the tokens of this process.
    key: [u8; 32],
    /// Passwords by their hash with the user's own: since when they are known, and whether they are right.
    remembered: Mutex<HashMap<[u8; 32], (Instant, bool)>>,
    /// Logins that were ended, and until when their tokens would have been good.
    ended: Mutex<HashMap<String, u64>>,
    hashing: Semaphore,
    /// Passwords that are or wait to be hashed, and by how many, by user; all users there are not are one.
    waiting: Mutex<HashMap<String, HashMap<[u8; 32], usize>>>,
    counts: Arc<StatementCounters>,
    /// A hash that the password of an unknown user is compared with: the answer takes as long as for a known user.
    nobody: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct LoginClaims {
    sub: String,
    /// The session.
    jti: String,
    /// A digest of the password that the token was given for: with another password the token is of no use any more.
    pwd: String,
    iat: u64,
    exp: u64,
}

impl Login {
    /// # Errors
    ///
    /// A file that cannot be read or parsed.
    #[expect(
        clippy::disallowed_methods,
        reason = "the key of tokens cannot be guessed"
    )]
    pub(crate) fn try_new(options: &LoginOptions, counts: Arc<StatementCounters>) -> Result<Self> {
        let users = options.users.as_deref().map(Users::open).transpose()?;
        let issuer = match &options.jwks {
            None => None,
            Some(path) => {
                let (name, audience) = (options.jwt_issuer.clone(), options.jwt_audience.clone());
                Some(Issuer::open(path, name, audience)?)
            }
        };
        let mut key = [0; 32];
        key[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        key[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        Ok(Self {
            is_closed: options.is_closed(),
            users,
            issuer,
            key,
            remembered: Mutex::default(),
            ended: Mutex::default(),
            waiting: Mutex::default(),
            hashing: Semaphore::new(HASHED_AT_ONCE),
            counts,
            nobody: hash_password("")?,
        })
    }

    /// The caller who sends these headers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unauthenticated`].
    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Result<Caller> {
        let found = self.find(headers).await;
        if let Err(error) = &found {
            self.counts.stranger();
            tracing::info!(target: QUERY_LOG, "a caller is refused: {}", error.message());
        }
        found
    }

    async fn find(&self, headers: &HeaderMap) -> Result<Caller> {
        let mut caller = match Credentials::of(headers)? {
            Some(Credentials::Password { user, password }) => {
                self.by_password(&user, &password).await?
            }
            Some(Credentials::Token(token)) => self.by_token(&token)?,
            None if self.is_closed => {
                return Err(unknown("a login is required")
                    .with_help("give a user and a password, or a token"));
            }
            None => Caller::anyone(),
        };
        if caller.session.is_none() {
            caller.session = cookie(headers, COOKIE_NAME).map(of_cookie);
        }
        Ok(caller)
    }

    /// Whether callers have to log in.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// A token for the caller who sends these headers, for the calls that follow.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unauthenticated`].
    pub(crate) async fn token(&self, headers: &HeaderMap) -> Result<String> {
        let caller = self.caller(headers).await?;
        self.token_of(&caller, headers)
    }

    /// The same for a caller that these headers have identified.
    ///
    /// # Errors
    ///
    /// None in practice.
    #[expect(
        clippy::disallowed_methods,
        reason = "each token has an id of its own, and ends by the wall clock"
    )]
    pub(crate) fn token_of(&self, caller: &Caller, headers: &HeaderMap) -> Result<String> {
        if let (Some(Credentials::Token(token)), true) = (Credentials::of(headers)?, self.is_closed)
        {
            return Ok(token);
        }
        let now = jsonwebtoken::get_current_timestamp();
        let claims = LoginClaims {
            sub: caller.name.to_string(),
            jti: uuid::Uuid::new_v4().simple().to_string(),
            pwd: self.password_of(&caller.name),
            iat: now,
            exp: now + LASTS.as_secs(),
        };
        let key = EncodingKey::from_secret(&self.key);
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key);
        token.map_err(|error| Error::internal(format!("no token can be made: {error}")))
    }

    async fn by_password(&self, name: &str, password: &str) -> Result<Caller> {
        if !self.is_closed {
            return Ok(Caller::anyone());
        }
        let user = self.users.as_ref().and_then(|users| users.named(name));
        let hash = user.as_ref().and_then(|user| user.password.clone());
        let hash = hash.as_ref().unwrap_or(&self.nobody).clone();
        let known = fingerprint(password, &hash);
        let is_right = match self.remembers(&known) {
            Some(is_right) => is_right,
            None => {
                let of = user.as_ref().map_or("", |_| name);
                let _waits = HashQueue::new(self, of, known)?;
                self.hashes_to(password, hash, known).await
            }
        };
        match user {
            Some(User {
                caller,
                password: Some(_),
            }) if is_right => Ok(caller),
            _ => Err(unknown("the user is unknown, or the password is wrong")),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "hashing a password takes a processor for long"
    )]
    async fn hashes_to(&self, password: &str, hash: String, known: [u8; 32]) -> bool {
        let Ok(_turn) = self.hashing.acquire().await else {
            return false;
        };
        // Others may have waited for the same: a pool of connections logs in all at once.
        if let Some(is_right) = self.remembers(&known) {
            return is_right;
        }
        let password = password.to_owned();
        let checked = tokio::task::spawn_blocking(move || is_password(&password, &hash));
        let is_right = checked.await.unwrap_or(false);
        self.remember(known, is_right);
        is_right
    }

    /// Whether a password is right, if that is known.
    fn remembers(&self, known: &[u8; 32]) -> Option<bool> {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (since, is_right) = remembered.get(known)?;
        (since.elapsed() < REMEMBERED).then_some(*is_right)
    }

    fn remember(&self, known: [u8; 32], is_right: bool) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, (since, _)| since.elapsed() < REMEMBERED);
        remembered
            .entry(known)
            .or_insert_with(|| (Instant::now(), is_right));
    }

    fn by_token(&self, token: &str) -> Result<Caller> {
        if let Some(ours) = self.ours(token) {
            if self.ended().contains_key(&ours.jti) {
                return Err(unknown("this login has ended").with_help("log in again"));
            }
            let session = Some(Arc::from(ours.jti));
            if !self.is_closed {
                return Ok(Caller {
                    session,
                    ..Caller::anyone()
                });
            }
            // The user's rights are those that the file of users gives now.
            let user = self.users.as_ref().and_then(|users| users.named(&ours.sub));
            let user = user.ok_or_else(|| unknown("the user of this token no longer exists"))?;
            if ours.pwd != self.password_of(&ours.sub) {
                return Err(
                    unknown("the password has changed since this login").with_help("log in again")
                );
            }
            return Ok(Caller {
                session,
                ..user.caller
            });
        }
        if !self.is_closed {
            return Ok(Caller::anyone());
        }
        if let Some(user) = self.users.as_ref().and_then(|users| users.of_token(token)) {
            return Ok(user.caller);
        }
        match &self.issuer {
            Some(issuer) => issuer.caller(token),
            None => Err(unknown("the token is unknown or has expired")),
        }
    }

    /// Ends a login: its token is of no use any more.
    #[expect(clippy::disallowed_methods, reason = "tokens end by the wall clock")]
    pub(crate) fn log_out(&self, token: &str) {
        let Some(ours) = self.ours(token) else {
            return;
        };
        let now = jsonwebtoken::get_current_timestamp();
        let mut ended = self.ended();
        ended.retain(|_, until| *until > now);
        ended.insert(ours.jti, ours.exp);
    }

    fn ended(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A digest that changes when the user's password changes.
    fn password_of(&self, name: &str) -> String {
        let user = self.users.as_ref().and_then(|users| users.named(name));
        let password = user.and_then(|user| user.password).unwrap_or_default();
        let mut of = Sha256::new();
        of.update(self.key);
        of.update(password.as_bytes());
        let of = of.finalize();
        of.iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn ours(&self, token: &str) -> Option<LoginClaims> {
        let key = DecodingKey::from_secret(&self.key);
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        let decoded = jsonwebtoken::decode::<LoginClaims>(token, &key, &validation);
        Some(decoded.ok()?.claims)
    }
}

/// A caller who waits for a password to be hashed. A caller who guesses many passwords of one name waits only behind
/// others of that name: the queue of all names never has many entries of one name.
struct HashQueue<'l> {
    login: &'l Login,
    name: String,
    known: [u8; 32],
}

impl<'l> HashQueue<'l> {
    fn new(login: &'l Login, name: &str, known: [u8; 32]) -> Result<Self> {
        let mut waiting = login.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let of_name = waiting.entry(name.to_owned()).or_default();
        if of_name.len() >= WAITING_FOR_A_NAME && !of_name.contains_key(&known) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "there are too many logins with this name at the same time",
            )
            .with_help("try again in a second"));
        }
        *of_name.entry(known).or_default() += 1;
        drop(waiting);
        Ok(Self {
            login,
            name: name.to_owned(),
            known,
        })
    }
}

impl Drop for HashQueue<'_> {
    fn drop(&mut self) {
        let mut waiting = self
            .login
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(of_name) = waiting.get_mut(&self.name) else {
            return;
        };
        if let Some(count) = of_name.get_mut(&self.known) {
            *count -= 1;
            if *count == 0 {
                of_name.remove(&self.known);
            }
        }
        if of_name.is_empty() {
            waiting.remove(&self.name);
        }
    }
}

enum Credentials {
    Password { user: String, password: String },
    Token(String),
}

impl Credentials {
    fn of(headers: &HeaderMap) -> Result<Option<Self>> {
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Ok(None);
        };
        let garbled = || unknown("the header 'authorization' is neither Basic nor Bearer");
        let value = value.to_str().map_err(|_| garbled())?;
        let (scheme, given) = value.split_once(' ').ok_or_else(garbled)?;
        let given = given.trim();
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Ok(Some(Self::Token(given.to_owned()))),
            "basic" => {
                let bytes = BASIC.decode(given).map_err(|_| garbled())?;
                let text = String::from_utf8(bytes).map_err(|_| garbled())?;
                let (user, password) = text.split_once(':').ok_or_else(garbled)?;
                Ok(Some(Self::Password {
                    user: user.to_owned(),
                    password: password.to_owned(),
                }))
            }
            _ => Err(garbled()),
        }
    }
}

/// The session of a cookie; never one of a token.
pub(crate) fn of_cookie(id: &str) -> Arc<str> {
    format!("cookie {id}").into()
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let cookies = headers.get_all(COOKIE).iter();
    let cookies = cookies.filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == wanted).then(|| value.trim_matches('"'))
    })
}

fn fingerprint(password: &str, hash: &str) -> [u8; 32] {
    let mut of = Sha256::new();
    of.update(hash.as_bytes());
    of.update([0]);
    of.update(password.as_bytes());
    of.finalize().into()
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use serde_json::{Value, json};

    use super::*;
    use crate::server::auth::access::Role;
    use crate::server::auth::issuer::tests::issuer;

    fn bearer(token: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = format!("Bearer {token}");
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    fn opened(options: &LoginOptions) -> Login {
        Login::try_new(options, Arc::new(StatementCounters::try_new().unwrap())).unwrap()
    }

    #[tokio::test]
    async fn tokens_of_another_issuer_name_user_and_rights() {
        let (key, public) = issuer("one");
        let (other, _) = issuer("two");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        std::fs::write(&path, json!({"keys": [public]}).to_string()).unwrap();
        let login = opened(&LoginOptions {
            jwks: Some(path),
            jwt_issuer: Some("https://id.example.com".to_owned()),
            jwt_audience: Some("anabranch".to_owned()),
            ..LoginOptions::default()
        });
        let soon = jsonwebtoken::get_current_timestamp() + 600;
        let claims = json!({
            "sub": "ann", "role": "write", "tables": ["visits*"], "exp": soon,
            "iss": "https://id.example.com", "aud": "anabranch",
        });
        let with = |name: &str, value: Value| {
            let mut changed = claims.clone();
            changed[name] = value;
            changed
        };
        let without = |name: &str| {
            let mut changed = claims.clone();
            changed.as_object_mut().unwrap().remove(name);
            changed
        };
        let header = |algorithm: Algorithm, id: Option<&str>| Header {
            kid: id.map(str::to_owned),
            ..Header::new(algorithm)
        };
        let of_one = header(Algorithm::ES256, Some("one"));
        let signed = |header: &Header, claims: &Value, key: &EncodingKey| {
            jsonwebtoken::encode(header, claims, key).unwrap()
        };
        let headers = bearer(&signed(&of_one, &claims, &key));
        let caller = login.caller(&headers).await.unwrap();
        assert_eq!((&*caller.name, caller.role), ("ann", Role::Write));
        assert!(caller.table_filter().unwrap()("public", "visits_raw"));
        assert!(!caller.table_filter().unwrap()("public", "secret"));
        let alone = header(Algorithm::ES256, None);
        let token = signed(&alone, &claims, &key);
        assert!(login.caller(&bearer(&token)).await.is_ok());

        // The public key is no secret: a token that is signed with it, as if it were one, proves nothing.
        let known = EncodingKey::from_secret(public["x"].as_str().unwrap().as_bytes());
        let symmetric = header(Algorithm::HS256, Some("one"));
        let refused = [
            signed(&of_one, &claims, &other),
            signed(&header(Algorithm::ES256, Some("two")), &claims, &key),
            signed(&symmetric, &claims, &known),
            signed(&of_one, &with("exp", json!(1)), &key),
            signed(&of_one, &with("nbf", json!(soon)), &key),
            signed(
                &of_one,
                &with("iss", json!("https://evil.example.com")),
                &key,
            ),
            signed(&of_one, &with("aud", json!("other")), &key),
            signed(&of_one, &with("role", json!("boss")), &key),
            signed(&of_one, &with("tables", json!(["***"])), &key),
            signed(&of_one, &without("exp"), &key),
            signed(&of_one, &without("sub"), &key),
            signed(&of_one, &without("role"), &key),
            signed(&of_one, &without("iss"), &key),
            signed(&of_one, &without("aud"), &key),
            "a.b.c".to_owned(),
        ];
        for (which, token) in refused.iter().enumerate() {
            let caller = login.caller(&bearer(token)).await;
            let error = caller.err().unwrap_or_else(|| panic!("token {which}"));
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        }
    }

    #[tokio::test]
    async fn a_login_ends_by_expiry_and_with_its_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        let hash = hash_password("geheim").unwrap();
        let ann = format!("[users.ann]\npassword = '{hash}'\nrole = 'read'\n");
        std::fs::write(&path, ann).unwrap();
        let options = LoginOptions {
            users: Some(path.clone()),
            ..LoginOptions::default()
        };
        let login = opened(&options);
        let mut headers = HeaderMap::new();
        let basic = format!("Basic {}", BASE64_STANDARD.encode("ann:geheim"));
        headers.insert(AUTHORIZATION, basic.parse().unwrap());
        let token = login.token(&headers).await.unwrap();
        let caller = login.caller(&bearer(&token)).await.unwrap();
        assert_eq!((&*caller.name, caller.role), ("ann", Role::Read));
        assert!(caller.session.is_some());
        // Another process has another key.
        let restarted = opened(&options);
        assert!(restarted.caller(&bearer(&token)).await.is_err());
        let expired = LoginClaims {
            sub: "ann".to_owned(),
            pwd: login.password_of("ann"),
            jti: "x".to_owned(),
            iat: 0,
            exp: jsonwebtoken::get_current_timestamp() - 1,
        };
        let key = EncodingKey::from_secret(&login.key);
        let expired = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &expired, &key).unwrap();
        assert!(login.caller(&bearer(&expired)).await.is_err());
        std::fs::write(&path, "[users.bob]\nrole = 'read'\n").unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(login.caller(&bearer(&token)).await.is_err());
    }

    #[test]
    fn a_cookie_is_found_among_others_and_opens_no_session_of_a_token() {
        let mut headers = HeaderMap::new();
        headers.append(
            COOKIE,
            "a=1; arrow_flight_session_id=\"7\"".parse().unwrap(),
        );
        assert_eq!(cookie(&headers, COOKIE_NAME), Some("7"));
        assert_eq!(&*of_cookie("7"), "cookie 7");
        assert_eq!(cookie(&HeaderMap::new(), COOKIE_NAME), None);
    }
}
