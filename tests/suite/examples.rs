//! Everything that we tell people to type works: the manifests under `manifests/examples/`, and the blocks in the
//! documentation whose fence says so.
//!
//! A fence `yaml trireme` holds a manifest that is validated and run, `yaml trireme validate` one that is only validated
//! (it needs a bucket or a cluster), `sql trireme` statements for `trireme sql`. All run in a folder that looks like the
//! repository's root and goes away, with what they write.

use std::fs;
use std::path::{Path, PathBuf};

use trireme_tests::{Output, Program, Scratch, repository, trireme};

#[test]
fn every_example_validates_and_runs() {
    let mut files = Vec::new();
    collect(&repository().join("manifests/examples"), "yaml", &mut files);
    assert!(files.iter().any(|file| file.ends_with("batch/hello.yaml")), "{files:?}");
    let scratch = Scratch::new();
    let copy = [repository().join("manifests"), scratch.path().join("manifests")];
    let _ = Program::new("cp", ["-r".into()].into_iter().chain(copy))
        .run()
        .succeeded();
    for file in files {
        let name = file.strip_prefix(repository()).unwrap();
        let _ = trireme(["validate".into(), "-f".into(), file.clone()])
            .run()
            .succeeded();
        let explained = trireme(["explain".into(), "-f".into(), name.to_owned()])
            .directory(scratch.path())
            .run()
            .succeeded();
        assert!(explained.stdout.contains("On workers"), "{explained}");
        let output = trireme(["run".into(), "-f".into(), name.to_owned()])
            .directory(scratch.path())
            .run()
            .succeeded();
        assert!(!output.stdout.is_empty(), "{} prints nothing", file.display());
    }
}

#[test]
fn every_tagged_block_of_the_documentation_works() {
    let mut files: Vec<_> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
        .map(|name| repository().join(name))
        .into();
    collect(&repository().join("docs"), "md", &mut files);
    for file in files.iter().filter(|file| file.exists()) {
        for block in blocks(&fs::read_to_string(file).unwrap()) {
            println!("{}:{}", file.display(), block.line);
            match block.tags.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["yaml", "trireme"] => drop(run(&block.text)),
                ["yaml", "trireme", "validate"] => validate(&block.text),
                ["sql", "trireme"] => drop(trireme(["sql", "-c", &block.text]).run().succeeded()),
                _ => panic!(
                    "{}:{}: a fence of no known kind: {:?}",
                    file.display(),
                    block.line,
                    block.tags
                ),
            }
        }
    }
}

/// `--help` is complete; the page is to be, too.
#[test]
fn the_page_of_the_command_line_has_every_option() {
    let page = fs::read_to_string(repository().join("docs/reference/cli.md")).unwrap();
    let operator = page
        .split("\n## trireme-operator")
        .nth(1)
        .expect("a section on the operator");
    let commands = ["run", "sql", "validate", "explain", "driver", "worker"];
    let helps = commands.map(|command| (page.as_str(), trireme([command, "--help"])));
    let helps = helps
        .into_iter()
        .chain([(operator, Program::new(operator_binary(), ["run", "--help"]))]);
    for (page, program) in helps {
        let help = program.run().succeeded();
        let words = help
            .stdout
            .split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '='));
        let options: Vec<_> = words.filter(|word| is_option(word)).collect();
        assert!(options.len() > 2, "{help}");
        for option in options
            .into_iter()
            .filter(|option| !matches!(*option, "--help" | "--version"))
        {
            assert!(page.contains(option), "docs/reference/cli.md says nothing of {option}");
        }
    }
}

/// What cargo built beside the engine.
fn operator_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("trireme-operator")
}

/// `--memory`.
fn is_option(word: &str) -> bool {
    let name = word.strip_prefix("--").unwrap_or_default();
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

#[test]
fn hello_world_has_at_most_nine_lines() {
    let hello = fs::read_to_string(repository().join("manifests/examples/batch/hello.yaml")).unwrap();
    assert!(hello.lines().count() <= 9, "{hello}");
}

#[test]
fn tagged_blocks_are_found() {
    let text = "a\n```yaml trireme\nkind: X\n  b: 1\n```\n```yaml\nno\n```\n  ```sql trireme\n  SELECT 1\n  ```\n";
    let found: Vec<_> = blocks(text)
        .into_iter()
        .map(|block| (block.line, block.tags.join(" "), block.text))
        .collect();
    let expected = [
        (2, "yaml trireme", "kind: X\n  b: 1\n"),
        (9, "sql trireme", "SELECT 1\n"),
    ];
    assert_eq!(
        found,
        expected.map(|(line, tags, text)| (line, tags.to_owned(), text.to_owned()))
    );
}

fn validate(manifest: &str) {
    let _ = trireme(["validate", "-f", "-"]).stdin(manifest).run().succeeded();
}

/// Validates and runs in a folder that looks like the repository's root as far as examples read it.
fn run(manifest: &str) -> Output {
    validate(manifest);
    let scratch = Scratch::new();
    std::os::unix::fs::symlink(repository().join("manifests"), scratch.path().join("manifests")).unwrap();
    trireme(["run", "-f", "-"])
        .stdin(manifest)
        .directory(scratch.path())
        .run()
        .succeeded()
}

/// A fenced block whose info string has the word `trireme`.
struct Block {
    /// Line of the fence, from 1.
    line: usize,
    /// Words of the info string.
    tags: Vec<String>,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let inside = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| !line.trim_start().starts_with("```"));
        let text = inside
            .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
            .collect();
        let tags: Vec<_> = info.split_whitespace().map(str::to_owned).collect();
        if tags.iter().any(|tag| tag == "trireme") {
            blocks.push(Block {
                line: index + 1,
                tags,
                text,
            });
        }
    }
    blocks
}

/// The files below `folder` with an ending, sorted; none if there is no such folder.
fn collect(folder: &Path, ending: &str, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, ending, files);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            files.push(path);
        }
    }
}
