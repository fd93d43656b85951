//! Tokens of another issuer, such as an identity provider: signed by one of its keys, with claims that name the user.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};

use crate::error::{Error, Result};
use crate::server::auth::access::{Caller, Grants, Role};
use crate::server::auth::errors::unknown;
use crate::server::auth::users::{LOOK, changed};

/// Another issuer of tokens.
pub(crate) struct Issuer {
    keys: Mutex<KeySet>,
    name: Option<String>,
    audience: Option<String>,
}

/// The keys of a file, which is read again when it changes: an issuer takes new ones.
struct KeySet {
    path: PathBuf,
    known: Arc<JwkSet>,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl KeySet {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            changed: changed(path),
            known: Arc::new(keys(path)?),
            path: path.to_owned(),
            looked: Instant::now(),
        })
    }

    fn look(&mut self) -> Arc<JwkSet> {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            let changed = changed(&self.path);
            if changed != self.changed {
                self.changed = changed;
                match keys(&self.path) {
                    Ok(keys) => self.known = Arc::new(keys),
                    Err(error) => {
                        tracing::error!("the previous keys stay in force: {}", error.message())
                    }
                }
            }
        }
        Arc::clone(&self.known)
    }
}

#[derive(serde::Deserialize)]
struct IssuerClaims {
    sub: String,
    role: Role,
    tables: Option<Vec<String>>,
    places: Option<Vec<String>>,
    jti: Option<String>,
}

impl Issuer {
    /// An issuer whose keys are in a file, with the `iss` and `aud` that its tokens must have.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or has no keys.
    pub(crate) fn open(
        path: &Path,
        name: Option<String>,
        audience: Option<String>,
    ) -> Result<Self> {
        Ok(Self {
            keys: Mutex::new(KeySet::open(path)?),
            name,
            audience,
        })
    }

    /// The caller with this token.
    ///
    /// # Errors
    ///
    /// [`crate::error::ErrorKind::Unauthenticated`].
    pub(crate) fn caller(&self, token: &str) -> Result<Caller> {
        let refused =
            |error: jsonwebtoken::errors::Error| unknown(&format!("the token is refused: {error}"));
        let header = jsonwebtoken::decode_header(token).map_err(refused)?;
        let known = self
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look();
        let key = match &header.kid {
            Some(id) => known.find(id),
            None if known.keys.len() == 1 => known.keys.first(),
            None => None,
        };
        let key = key.ok_or_else(|| unknown("the token is signed by an unknown key"))?;
        // A key is for one algorithm: the token does not choose another.
        let of_key = key
            .common
            .key_algorithm
            .map(|algorithm| algorithm.to_string());
        if of_key.is_some_and(|algorithm| algorithm != format!("{:?}", header.alg)) {
            return Err(unknown(
                "the token is signed by another algorithm than its key's",
            ));
        }
        let decoding = DecodingKey::from_jwk(key).map_err(refused)?;
        if decoding.family() != header.alg.family()
            || header.alg.family() == Algorithm::HS256.family()
        {
            return Err(unknown(
                "the token is signed by another algorithm than its key's",
            ));
        }
        let mut validation = Validation::new(header.alg);
        let mut required = vec!["exp", "sub"];
        match &self.name {
            Some(name) => {
                validation.set_issuer(&[name]);
                required.push("iss");
            }
            None => validation.iss = None,
        }
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&required);
        let claims = jsonwebtoken::decode::<IssuerClaims>(token, &decoding, &validation);
        let claims = claims.map_err(refused)?.claims;
        let tables = claims.tables.as_deref().map(Grants::try_new).transpose();
        Ok(Caller {
            name: claims.sub.into(),
            role: claims.role,
            tables: tables.map_err(|error| unknown(error.message()))?,
            places: claims.places.map(Into::into),
            session: claims.jti.map(Arc::from),
        })
    }
}

fn keys(path: &Path) -> Result<JwkSet> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::invalid(format!("{shown} cannot be read: {error}")))?;
    let keys: JwkSet = serde_json::from_str(&text).map_err(|error| {
        Error::invalid(format!("{shown} is not a JSON Web Key Set: {error}"))
            .with_help("save the document at the issuer's jwks_uri")
    })?;
    if keys.keys.is_empty() {
        return Err(Error::invalid(format!("{shown} has no keys")));
    }
    Ok(keys)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;
    use crate::error::ErrorKind;

    /// A key, and its public half as a set of keys has it.
    pub(in crate::server) fn issuer(id: &str) -> (EncodingKey, Value) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let point = key.public_key_raw();
        let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let public = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id,
            "x": part(&point[1..33]), "y": part(&point[33..65]),
        });
        (EncodingKey::from_ec_der(&key.serialize_der()), public)
    }

    #[test]
    fn keys_that_change_are_read_again_and_a_broken_file_changes_nothing() {
        let [old, new] = ["old", "new"].map(issuer);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let set = |keys: &[&Value]| json!({ "keys": keys }).to_string();
        std::fs::write(&path, set(&[&old.1])).unwrap();
        let issuer = Issuer::open(&path, None, None).unwrap();
        let soon = jsonwebtoken::get_current_timestamp() + 600;
        let signed = |key: &EncodingKey, id: &str| {
            let header = Header {
                kid: Some(id.to_owned()),
                ..Header::new(Algorithm::ES256)
            };
            let claims = json!({"sub": id, "role": "read", "exp": soon});
            jsonwebtoken::encode(&header, &claims, key).unwrap()
        };
        let (by_old, by_new) = (signed(&old.0, "old"), signed(&new.0, "new"));
        let is_known = |token: &str| match issuer.caller(token) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unauthenticated);
                assert!(error.message().contains("an unknown key"), "{error}");
                false
            }
        };
        let known = || (is_known(&by_old), is_known(&by_new));
        let look = |when: Instant| issuer.keys.lock().unwrap().looked = when;
        let long_ago = || Instant::now().checked_sub(LOOK).unwrap();
        let write = |text: &str, minute: u64| {
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let later = SystemTime::now() + Duration::from_secs(60 * minute);
            file.set_modified(later).unwrap();
        };
        assert_eq!(known(), (true, false));

        write(&set(&[&old.1, &new.1]), 1);
        // The file is not read again for each token with an unknown key.
        look(Instant::now() + Duration::from_secs(3_600));
        assert_eq!(known(), (true, false));
        look(long_ago());
        assert_eq!(known(), (true, true));

        // A key that is taken back signs nothing any more.
        write(&set(&[&new.1]), 2);
        look(long_ago());
        assert_eq!(known(), (false, true));

        for (minute, broken) in [(3, "{\"keys\": ["), (4, "{\"keys\": []}"), (5, "{}")] {
            write(broken, minute);
            look(long_ago());
            assert_eq!(known(), (false, true), "{broken}");
        }
        std::fs::remove_file(&path).unwrap();
        look(long_ago());
        assert_eq!(known(), (false, true));
        write(&set(&[&old.1]), 6);
        look(long_ago());
        assert_eq!(known(), (true, false));
    }
}
