//! From a URL to a connection: HTTP by our own client, `git://` by a socket, ssh by the system's `ssh`.

use std::ffi::OsString;
use std::io;
use std::process::Command;

use gix_transport::Protocol;
use gix_transport::client::blocking_io::Transport;
use gix_transport::client::git::ConnectMode;
use gix_transport::client::git::blocking_io::Connection;
use percent_encoding::percent_decode_str;

use super::http::GitHttp;
use super::line::Line;
use super::session::Failure;
use super::wire::{Program, Wire};
use crate::net::Client;
use crate::source_url::SourceUrl;

/// The port of `git daemon`.
const GIT_PORT: u16 = 9418;

/// A connection, and the program that makes it if there is one.
pub(super) type Connected<'a> = (Box<dyn Transport + 'a>, Option<Program>);

/// Returns true if repositories can be fetched from such a URL.
pub(super) fn is_supported(url: &SourceUrl) -> bool {
    matches!(url.url().scheme(), "http" | "https" | "git" | "ssh")
}

/// Connects; HTTP does so at the first request.
pub(super) fn connect<'a>(
    url: &SourceUrl,
    client: &'a Client,
    line: &'a Line<'a>,
) -> Result<Connected<'a>, Failure> {
    match url.url().scheme() {
        "http" | "https" => {
            // Only a name for messages: the client knows the real one.
            let shown = gix::url::parse(url.to_string())
                .map_err(|error| Failure::Other(error.to_string()))?;
            let http = GitHttp::new(client, line, url.clone());
            let transport = gix_transport::client::blocking_io::http::connect_http(
                http,
                shown,
                Protocol::V2,
                false,
            );
            Ok((Box::new(transport), None))
        }
        "git" => Ok((daemon(url, client, line)?, None)),
        _ => {
            let (transport, program) = ssh(url, line)?;
            Ok((transport, Some(program)))
        }
    }
}

fn daemon<'a>(
    url: &SourceUrl,
    client: &'a Client,
    line: &'a Line<'a>,
) -> Result<Box<dyn Transport + 'a>, Failure> {
    let host = url.host().ok_or_else(no_host)?.to_owned();
    let port = url.url().port();
    let stream = client
        .connect(
            host.trim_matches(['[', ']']),
            port.unwrap_or(GIT_PORT),
            line.watch.interrupt,
        )
        .map_err(|error| Failure::Other(line.failed(error).to_string()))?;
    let (reader, writer) =
        Wire::pair(stream, line).map_err(|error| Failure::Other(error.to_string()))?;
    Ok(Box::new(Connection::new(
        reader,
        writer,
        Protocol::V2,
        path_of(url),
        Some((host, port)),
        ConnectMode::Daemon,
        false,
    )))
}

fn ssh<'a>(
    url: &SourceUrl,
    line: &'a Line<'a>,
) -> Result<(Box<dyn Transport + 'a>, Program), Failure> {
    let host = url.host().ok_or_else(no_host)?.trim_matches(['[', ']']);
    let user = percent_decode_str(url.url().username()).collect::<Vec<u8>>();
    let user = String::from_utf8_lossy(&user);
    // An option of ssh may run any program.
    if host.starts_with('-') || user.starts_with('-') {
        return Err(Failure::Other("the host or user begins with '-'".into()));
    }
    let mut command = shell();
    command.env("GIT_PROTOCOL", "version=2");
    command.args(["-o", "SendEnv=GIT_PROTOCOL"]);
    if line.is_build {
        command.args(["-o", "BatchMode=yes"]);
    }
    if let Some(port) = url.url().port() {
        command.args(["-p", &port.to_string()]);
    }
    let target = if user.is_empty() {
        host.to_owned()
    } else {
        format!("{user}@{host}")
    };
    let path = path_of(url);
    // So may one of git on the other side.
    if path.starts_with('-') {
        return Err(Failure::Other("the path begins with '-'".into()));
    }
    command.args(["--", &target]);
    command.arg(format!(
        "git-upload-pack {}",
        gix::quote::single(path.as_str().into())
    ));
    let (program, stream) = Program::start(command).map_err(|error| {
        Failure::Other(match error.kind() {
            io::ErrorKind::NotFound => {
                "ssh cannot be run: there is no such program, and nothing else fetches from ssh:// URLs".to_owned()
            }
            _ => format!("ssh cannot be run: {error}"),
        })
    })?;
    let (reader, writer) =
        Wire::pair(stream, line).map_err(|error| Failure::Other(error.to_string()))?;
    let connection = Connection::new(
        reader,
        writer,
        Protocol::V2,
        path,
        None::<(&str, _)>,
        ConnectMode::Process,
        false,
    );
    Ok((Box::new(connection), program))
}

/// ssh, or what the user's environment has git run in its place.
fn shell() -> Command {
    let own = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(line) = own("GIT_SSH_COMMAND") {
        let mut script = line;
        script.push(" \"$@\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg("ssh");
        return command;
    }
    Command::new(own("GIT_SSH").unwrap_or_else(|| OsString::from("ssh")))
}

fn path_of(url: &SourceUrl) -> String {
    let path = percent_decode_str(url.url().path()).decode_utf8_lossy();
    if url.is_below_home() {
        return path.trim_start_matches('/').to_owned();
    }
    // `/~user/path` is a path below that user's home.
    match path.strip_prefix("/~") {
        Some(rest) => format!("~{rest}"),
        None => path.into_owned(),
    }
}

fn no_host() -> Failure {
    Failure::Other("the URL has no host".into())
}
