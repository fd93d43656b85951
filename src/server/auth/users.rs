//! The file of users: which users there are, how each proves its identity, and its rights.
//!
//! ```toml
//! [users.ann]
//! password = "$argon2id$v=19$…"    # of `anabranch password`
//! tokens = ["sha256:…"]            # of `anabranch token`
//! role = "write"                   # read, write or admin
//! tables = ["visits*"]             # all, if it is left out
//! places = ["s3://bucket/ann"]     # where its tables may be; all of --location-root, if it is left out
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use figment::Figment;
use figment::providers::{Format as _, Toml};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::server::auth::access::{Caller, Grants, Role};

/// How often a file is checked for changes.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
/// Before the hash of a token.
const TOKEN: &str = "sha256:";

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    users: BTreeMap<String, UserEntry>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    password: Option<String>,
    #[serde(default)]
    tokens: Vec<String>,
    role: Role,
    tables: Option<Vec<String>>,
    /// At or below which its tables must be.
    places: Option<Vec<String>>,
}

/// One user.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) caller: Caller,
    /// In its text form.
    pub(crate) password: Option<String>,
}

#[derive(Debug)]
struct UserIndex {
    users: BTreeMap<String, User>,
    /// The users by the hashes of their tokens.
    tokens: BTreeMap<String, String>,
}

/// The users of a file, which is read again when it changes.
#[derive(Debug)]
pub(crate) struct Users {
    path: PathBuf,
    known: Mutex<LoadedUsers>,
}

#[derive(Debug)]
struct LoadedUsers {
    known: UserIndex,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl Users {
    /// # Errors
    ///
    /// A file that cannot be read or parsed: with its place.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let changed = changed(path);
        Ok(Self {
            known: Mutex::new(LoadedUsers {
                known: read(path)?,
                changed,
                looked: Instant::now(),
            }),
            path: path.to_owned(),
        })
    }

    /// The user of a name.
    pub(crate) fn named(&self, name: &str) -> Option<User> {
        self.look(|known| known.users.get(name).cloned())
    }

    /// The user with this token.
    pub(crate) fn of_token(&self, token: &str) -> Option<User> {
        let hash = hash_of(token);
        self.look(|known| known.users.get(known.tokens.get(&hash)?).cloned())
    }

    fn look<T>(&self, find: impl FnOnce(&UserIndex) -> T) -> T {
        let mut seen = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.looked.elapsed() >= LOOK {
            seen.looked = Instant::now();
            let changed = changed(&self.path);
            if changed != seen.changed {
                seen.changed = changed;
                match read(&self.path) {
                    Ok(known) => seen.known = known,
                    // Half a file must not lock everybody out.
                    Err(error) => {
                        tracing::error!("the previous users stay in force: {}", error.message())
                    }
                }
            }
        }
        find(&seen.known)
    }
}

/// When a file was changed last.
pub(crate) fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn read(path: &Path) -> Result<UserIndex> {
    let shown = path.display();
    if !path.is_file() {
        return Err(
            Error::invalid(format!("the users file {shown} does not exist"))
                .with_help("write one as docs/security.md shows"),
        );
    }
    let file: UsersFile = Figment::from(Toml::file_exact(path))
        .extract()
        .map_err(|error| {
            Error::invalid(format!("{shown} is not a users file: {error}"))
                .with_help("docs/security.md has an example")
        })?;
    let mut users = BTreeMap::new();
    let mut tokens = BTreeMap::new();
    for (name, entry) in file.users {
        let wrong = |what: String| Error::invalid(format!("{shown}: user {name}: {what}"));
        if let Some(password) = &entry.password {
            PasswordHash::new(password).map_err(|_| {
                wrong("'password' is not an argon2 hash".to_owned())
                    .with_help("`anabranch password` makes one")
            })?;
        }
        for token in entry.tokens {
            let hash = token.strip_prefix(TOKEN).filter(|hash| hash.len() == 64);
            let hash = hash.ok_or_else(|| {
                wrong("'tokens' has an entry that is not a token hash".to_owned())
                    .with_help("`anabranch token` makes a token and its hash")
            })?;
            tokens.insert(hash.to_lowercase(), name.clone());
        }
        let tables = entry.tables.as_deref().map(Grants::try_new).transpose();
        let caller = Caller {
            name: name.as_str().into(),
            role: entry.role,
            tables: tables.map_err(|error| error.context(format!("{shown}: user {name}")))?,
            places: entry.places.map(Into::into),
            session: None,
        };
        let user = User {
            caller,
            password: entry.password,
        };
        users.insert(name, user);
    }
    Ok(UserIndex { users, tokens })
}

fn hash_of(token: &str) -> String {
    let hash = Sha256::digest(token.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether it is the password of the hash. Takes tens of milliseconds of a processor, by design.
pub(crate) fn is_password(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        let checked = Argon2::default().verify_password(password.as_bytes(), &hash);
        checked.is_ok()
    })
}

/// The hash of a password for the file of users.
///
/// # Errors
///
/// The system has no random numbers.
pub fn hash_password(password: &str) -> Result<String> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    let hash = hash.map_err(|error| Error::internal(format!("no hash can be made: {error}")))?;
    Ok(hash.to_string())
}

/// A new token that cannot be guessed, and its hash for the file of users.
#[expect(clippy::disallowed_methods, reason = "a token cannot be guessed")]
pub fn new_token() -> (String, String) {
    let part = || uuid::Uuid::new_v4().simple();
    let token = format!("anabranch-{}{}", part(), part());
    let hash = format!("{TOKEN}{}", hash_of(&token));
    (token, hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::auth::access::Role;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn users_are_found_by_name_and_by_token() {
        let hash = hash_password("geheim").unwrap();
        let (token, hashed) = new_token();
        let (_folder, path) = file(&format!(
            "[users.ann]\npassword = '{hash}'\nrole = 'write'\ntables = ['visits*']\n\
             [users.robot]\ntokens = ['{hashed}']\nrole = 'read'\n"
        ));
        let users = Users::open(&path).unwrap();
        let ann = users.named("ann").unwrap();
        assert_eq!(ann.caller.role, Role::Write);
        assert!(ann.caller.tables.is_some());
        let kept = ann.password.unwrap();
        assert!(is_password("geheim", &kept));
        assert!(!is_password("Geheim", &kept));
        assert!(users.named("bob").is_none());
        let robot = users.of_token(&token).unwrap();
        assert_eq!(&*robot.caller.name, "robot");
        assert!(users.of_token(&hashed).is_none());
        assert!(users.of_token("").is_none());
    }

    #[test]
    fn an_invalid_users_file_is_refused_with_reason_and_place() {
        for (text, said) in [
            ("[users.ann]\nrole = 'boss'\n", "unknown variant"),
            ("[users.ann]\npassword = 'x'\n", "missing field `role`"),
            (
                "[users.ann]\nrole = 'read'\npassword = 'x'\n",
                "user ann: 'password' is not an argon2 hash",
            ),
            (
                "[users.ann]\nrole = 'read'\ntokens = ['x']\n",
                "user ann: 'tokens' has an entry that is not a token hash",
            ),
            (
                "[users.ann]\nrole = 'read'\ntables = ['***']\n",
                "user ann: invalid table pattern '***'",
            ),
            ("[users.ann]\nrole = 'read'\nrights = 1\n", "unknown field"),
            ("users", "users.toml"),
        ] {
            let (_folder, path) = file(text);
            let error = Users::open(&path).unwrap_err();
            assert!(error.message().contains(said), "{text}: {error}");
            assert!(error.help().is_some());
        }
        let none = Users::open(Path::new("/nowhere/users.toml")).unwrap_err();
        assert!(none.message().contains("does not exist"));
    }

    #[test]
    fn a_changed_users_file_is_reloaded_and_a_broken_one_is_not() {
        let (_folder, path) = file("[users.ann]\nrole = 'read'\n");
        let users = Users::open(&path).unwrap();
        let write = |text: &str, minute: u64| {
            std::fs::write(&path, text).unwrap();
            let later = SystemTime::now() + Duration::from_secs(60 * minute);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(later).unwrap();
            let mut seen = users.known.lock().unwrap();
            seen.looked = Instant::now().checked_sub(LOOK).unwrap();
        };
        write("[users.bob]\nrole = 'read'\n", 1);
        assert!(users.named("bob").is_some());
        assert!(users.named("ann").is_none());
        write("[users.", 2);
        assert!(users.named("bob").is_some());
    }
}
