//! Extends clap's scripts to ask for names. A shell whose script is not extended completes what clap knows.

use clap_complete::Shell;

/// Asks for names first, and falls back to clap's function if there are none. Bash replaces only the part of a word after
/// its last word-break character; `COMP_WORDBREAKS` includes `@` and `=`.
const BASH: &str = r#"
_mq_worker_names() {
    local line="${COMP_LINE:0:COMP_POINT}" names
    names="$(mq-worker names "$line" 2>/dev/null)"
    if [[ -z "$names" ]]; then
        _mq__worker "$@"
        return
    fi
    local word="${line##*[[:space:]]}"
    [[ "$word" == --*=* ]] && word="${word#*=}"
    local kept="${word%"${word##*[$COMP_WORDBREAKS]}"}"
    local IFS=$'\n'
    COMPREPLY=()
    for name in $names; do COMPREPLY+=("${name#"$kept"}"); done
}
"#;

const ZSH: &str = r#"
(( $+functions[_mq_worker_names] )) ||
_mq_worker_names() {
    local -a names
    names=(${(f)"$(mq-worker names "$LBUFFER" 2>/dev/null)"})
    if (( $#names )); then compadd -a names; else _default; fi
}
"#;

const FISH: &str = r"
function __mq_worker_names
    mq-worker names (commandline -cp | string collect) 2>/dev/null
end
complete -c mq-worker -a '(__mq_worker_names)'
";

/// Returns the script, extended to ask for names where clap knows no values.
pub(super) fn with_names(shell: Shell, script: &str) -> String {
    match shell {
        Shell::Bash => {
            let script = script.replace("complete -F _mq__worker ", "complete -F _mq_worker_names ");
            // Insert before the last lines, which register the function.
            match script.rfind("\nif [[") {
                Some(at) => format!("{}{BASH}{}", &script[..at], &script[at..]),
                None => script,
            }
        }
        Shell::Zsh => {
            let script = script.replace(":_default'", ":_mq_worker_names'");
            match script.rfind("\nif [ ") {
                Some(at) => format!("{}{ZSH}{}", &script[..at], &script[at..]),
                None => script,
            }
        }
        Shell::Fish => {
            let line = |line: &str| match line.strip_suffix(" -r") {
                Some(option) => format!("{option} -r -a '(__mq_worker_names)'\n"),
                None => format!("{line}\n"),
            };
            format!("{}{FISH}", script.lines().map(line).collect::<String>())
        }
        _ => script.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::arguments::Arguments;

    #[test]
    fn the_scripts_of_clap_are_as_they_were_when_this_was_written() {
        for (shell, asks) in [
            (Shell::Bash, "complete -F _mq_worker_names -o bashdefault"),
            (Shell::Zsh, ":QUEUES:_mq_worker_names'"),
            (Shell::Fish, "-l queues"),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "mq-worker", &mut script);
            let script = with_names(shell, &String::from_utf8_lossy(&script));
            assert!(script.contains(asks), "{shell}");
            assert!(script.contains("mq-worker names "), "{shell} asks for no names");
        }
    }
}
