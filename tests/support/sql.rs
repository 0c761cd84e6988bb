//! The database as everybody else sees it: through the sqlite3 shell, in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use super::{Site, Tool};

/// Runs SQL and gives the rows.
///
/// # Errors
/// What the shell said.
pub fn try_sql(database: &Path, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let output = Command::new("sqlite3")
        .args(["-batch", "-bail", "-cmd", ".timeout 20000", "-separator", "\u{1f}"])
        .arg(database)
        .arg(sql)
        .output()
        .map_err(|e| format!("sqlite3 is needed: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(|l| l.split('\u{1f}').map(str::to_owned).collect()).collect())
}

impl Site {
    /// Runs SQL on the site's database and gives the rows.
    pub fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        try_sql(&self.database(), sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// The one number that a query gives.
    pub fn number(&self, sql: &str) -> i64 {
        let rows = self.sql(sql);
        let cell = rows.first().and_then(|r| r.first()).map(String::as_str);
        cell.and_then(|c| c.parse().ok()).unwrap_or_else(|| panic!("{sql}: {rows:?}"))
    }
}

/// The database's write lock, held by another process.
pub struct Lock {
    shell: Tool,
    answers: BufReader<ChildStdout>,
}

impl Lock {
    /// Takes it, waiting for whoever writes.
    pub fn take(database: &Path) -> Self {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", "-cmd", ".timeout 20000"]).arg(database);
        let mut shell = Tool::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let answers = BufReader::new(shell.0.stdout.take().expect("a pipe"));
        let mut lock = Self { shell, answers };
        lock.say("BEGIN EXCLUSIVE;", "taken");
        lock
    }

    /// Gives it back.
    pub fn release(mut self) {
        self.say("COMMIT;", "released");
    }

    fn say(&mut self, sql: &str, done: &str) {
        self.shell.write(&format!("{sql}\nSELECT '{done}';\n"));
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the shell answers");
        assert_eq!(line.trim(), done, "{sql}");
    }
}
