//! Connection to the server that the user names, and the login: flags and variables over a profile of the configuration
//! file.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use figment::value::magic::RelativePathBuf;

use crate::cli::args::{Global, ServerArguments};
use crate::cli::config::{Profile, Settings};
use crate::cli::terminal::messages::eprint;
use crate::client::{Address, Client, Login, TlsFiles};
use crate::error::{Error, Result};

/// A connection to the server that the user names; `None` if statements are to run in this process.
///
/// # Errors
///
/// Flags that contradict each other, or the server does not answer.
pub(crate) async fn connect(
    settings: &Settings,
    global: &Global,
    flags: &ServerArguments,
) -> Result<Option<Client>> {
    let profile = profile(settings, flags)?;
    let Some(url) = flags.url.as_ref().or(profile.url.as_ref()) else {
        return match unused_server_flag(flags) {
            Some(flag) => Err(
                Error::invalid(format!("{flag} needs a server, and none is given"))
                    .with_help("give one: --url grpc://HOST:PORT"),
            ),
            None => Ok(None),
        };
    };
    if let Some(flag) = about_this_process(global) {
        return Err(Error::invalid(format!(
            "{flag} applies to a local session, and the server has its own"
        ))
        .with_help(format!("give {flag} to `anabranch serve`")));
    }
    let address = Address::parse(url)?;
    let path = |flag: &Option<PathBuf>, file: &Option<RelativePathBuf>| {
        flag.clone()
            .or_else(|| file.as_ref().map(RelativePathBuf::relative))
    };
    let tls = TlsFiles {
        authority: path(&flags.tls_ca, &profile.tls_ca),
        certificate: path(&flags.tls_cert, &profile.tls_cert),
        key: path(&flags.tls_key, &profile.tls_key),
    };
    let login = login(flags, &profile, &address)?;
    if !matches!(login, Login::Anonymous) && !address.has_tls() && !address.is_local() {
        eprint("warning: without TLS, the login is sent unencrypted\n");
    }
    Client::connect(address, login, &tls).await.map(Some)
}

fn profile(settings: &Settings, flags: &ServerArguments) -> Result<Profile> {
    let Some(name) = &flags.profile else {
        return Ok(Profile::default());
    };
    if let Some(profile) = settings.profiles.get(name) {
        if profile.url.is_none() && flags.url.is_none() {
            return Err(Error::invalid(format!("profile {name} has no url"))
                .with_help("write url = \"grpc://HOST:PORT\" into it"));
        }
        return Ok(profile.clone());
    }
    let known: Vec<&str> = settings.profiles.keys().map(String::as_str).collect();
    Err(
        Error::not_found(format!("there is no profile {name}")).with_help(match known.as_slice() {
            [] => format!(
                "the configuration file has none: write [profiles.{name}] with a url into it"
            ),
            known => format!("the profiles are {}", known.join(", ")),
        }),
    )
}

/// A flag that means nothing without a server. Variables may be set for other times.
fn unused_server_flag(flags: &ServerArguments) -> Option<&'static str> {
    let path = |path: &Option<PathBuf>, variable: &str| {
        is_flag(path.as_ref().map(|path| path.as_os_str()), variable)
    };
    let given = [
        ("--user", is_user_flag(flags)),
        (
            "--token-file",
            path(&flags.token_file, "ANABRANCH_TOKEN_FILE"),
        ),
        ("--tls-ca", path(&flags.tls_ca, "ANABRANCH_TLS_CA")),
        ("--tls-cert", path(&flags.tls_cert, "ANABRANCH_TLS_CERT")),
        ("--tls-key", path(&flags.tls_key, "ANABRANCH_TLS_KEY")),
    ];
    given
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
}

/// Whether a value was given as a flag, and is not that of its variable.
fn is_flag(value: Option<&OsStr>, variable: &str) -> bool {
    value.is_some() && std::env::var_os(variable).as_deref() != value
}

fn is_user_flag(flags: &ServerArguments) -> bool {
    is_flag(flags.user.as_ref().map(OsStr::new), "ANABRANCH_USER")
}

/// A flag that applies only to statements which run in this process.
fn about_this_process(global: &Global) -> Option<&'static str> {
    let given = [
        ("--memory-limit", global.memory_limit.is_some()),
        ("--target-partitions", global.target_partitions.is_some()),
        ("--data-dir", global.data_dir.is_some()),
    ];
    given
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
}

/// The first of flags, variables and profile that names a user or a token decides.
fn login(flags: &ServerArguments, profile: &Profile, address: &Address) -> Result<Login> {
    let is_token_flag = is_flag(
        flags.token_file.as_ref().map(|file| file.as_os_str()),
        "ANABRANCH_TOKEN_FILE",
    );
    match (&flags.user, &flags.token_file) {
        (Some(_), Some(_)) if is_user_flag(flags) && is_token_flag => {
            return Err(
                Error::invalid("both --user and --token-file are given").with_help("leave one out")
            );
        }
        (Some(name), file) if file.is_none() || !is_token_flag => return user(name, address),
        (_, Some(file)) => return token(file),
        _ => {}
    }
    if let Ok(token) = std::env::var("ANABRANCH_TOKEN") {
        return Ok(Login::Token(token));
    }
    match (&profile.user, &profile.token_file) {
        (Some(_), Some(_)) => {
            Err(Error::invalid("the profile has a user and a token").with_help("leave one out"))
        }
        (Some(name), None) => user(name, address),
        (None, Some(file)) => token(&file.relative()),
        (None, None) => Ok(Login::Anonymous),
    }
}

fn user(name: &str, address: &Address) -> Result<Login> {
    if name.contains(':') {
        return Err(Error::invalid(format!(
            "invalid user name '{name}': it contains ':'"
        )));
    }
    Ok(Login::User {
        name: name.to_owned(),
        password: password(name, address)?,
    })
}

fn password(name: &str, address: &Address) -> Result<String> {
    if let Ok(password) = std::env::var("ANABRANCH_PASSWORD") {
        return Ok(password);
    }
    let unknown = |why: String| {
        Error::invalid(format!("the password of {name} is not known{why}"))
            .with_help("set ANABRANCH_PASSWORD, or start this at a terminal")
    };
    if !std::io::stderr().is_terminal() {
        return Err(unknown(String::new()));
    }
    let prompt = format!("Password of {name} at {address}: ");
    tokio::task::block_in_place(|| rpassword::prompt_password(prompt))
        .map_err(|error| unknown(format!(": {error}")))
}

fn token(file: &Path) -> Result<Login> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::invalid(format!("{shown} cannot be read: {error}")))?;
    match text.trim() {
        "" => Err(Error::invalid(format!("{shown} holds no token"))),
        token => Ok(Login::Token(token.to_owned())),
    }
}
