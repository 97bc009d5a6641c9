use std::{error::Error, fs, io, path::Path};

use super::*;

fn any(_: &OsStr) -> bool {
    true
}

fn fill_with(content: &'static [u8]) -> impl FnOnce(&Path) -> Result<(), FileError> {
    move |folder| write_file(&folder.join("file"), content)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    write_file_atomically(&path, |writer| writer.write_all(b"first")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first");

    let error = write_file_atomically(&path, |writer| {
        writer.write_all(b"sec")?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    })
    .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(error.path(), folder.path().join(".file.partial"));
    assert_eq!(fs::read(&path).unwrap(), b"first");
    assert_eq!(names(folder.path()), ["file"]);

    write_file_atomically(&path, |writer| writer.write_all(b"second")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn errors_of_files_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/file");
    let error = write_file_atomically(&missing, |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot create {}", folder.path().join("no/.file.partial").display()));
    assert!(error.source().is_some());
    let error = write_file_atomically(Path::new("/"), |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);

    // A folder in the way: the content is written and then cannot take the name.
    let occupied = folder.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    write_file_atomically(&occupied, |_| Ok(())).unwrap_err();
    assert_eq!(names(folder.path()), ["occupied"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let error = write_file(Path::new("/dev/full"), b"content").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(error.to_string(), "cannot write /dev/full");
}

#[test]
fn a_folder_is_made_with_its_parents_and_replaced() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a/b");
    replace_dir_atomically(&dir, any, fill_with(b"first")).unwrap();
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"first");

    // What an interrupted run left is not mixed in.
    let partial = root.path().join("a/.b.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("stale"), b"").unwrap();
    fs::write(dir.join("gone"), b"").unwrap();
    replace_dir_atomically(&dir, any, fill_with(b"second")).unwrap();
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"second");
    assert_eq!(names(&dir), ["file"]);
    assert_eq!(names(&root.path().join("a")), ["b"]);
}

#[test]
fn a_failure_leaves_the_folder_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("dir");
    let fail = |folder: &Path| {
        write_file(&folder.join("file"), b"half")?;
        let full = io::Error::from(io::ErrorKind::StorageFull);
        Err(FileError::new("write", &folder.join("other"), full))
    };
    replace_dir_atomically(&dir, any, fail).unwrap_err();
    assert_eq!(names(root.path()), [""; 0]);

    replace_dir_atomically(&dir, any, fill_with(b"first")).unwrap();
    let error = replace_dir_atomically(&dir, any, fail).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"first");
    assert_eq!(names(root.path()), ["dir"]);
}

#[test]
fn a_folder_with_other_things_is_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("dir");
    let only_file = |name: &OsStr| name == "file";
    fs::create_dir(&dir).unwrap();
    replace_dir_atomically(&dir, only_file, fill_with(b"first")).unwrap();

    fs::write(dir.join("thesis.tex"), b"").unwrap();
    let error = replace_dir_atomically(&dir, only_file, fill_with(b"second")).unwrap_err();
    assert!(error.source().unwrap().to_string().contains("\"thesis.tex\""));
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"first");
    assert_eq!(names(&dir), ["file", "thesis.tex"]);

    fs::remove_file(dir.join("thesis.tex")).unwrap();
    fs::remove_file(dir.join("file")).unwrap();
    fs::create_dir(dir.join("file")).unwrap();
    replace_dir_atomically(&dir, only_file, fill_with(b"second")).unwrap_err();

    let file = root.path().join("plain");
    fs::write(&file, b"text").unwrap();
    replace_dir_atomically(&file, any, fill_with(b"second")).unwrap_err();
    assert_eq!(fs::read(&file).unwrap(), b"text");
    assert_eq!(names(root.path()), ["dir", "plain"]);
}

#[test]
fn an_interrupted_replacement_is_undone_or_completed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("dir");
    let old = root.path().join(".dir.old");

    // Between the two renames.
    fs::create_dir(&old).unwrap();
    fs::write(old.join("file"), b"before").unwrap();
    recover_dir(&dir).unwrap();
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"before");
    assert_eq!(names(root.path()), ["dir"]);

    // After both.
    fs::create_dir(&old).unwrap();
    recover_dir(&dir).unwrap();
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"before");
    assert_eq!(names(root.path()), ["dir"]);

    // A replacement that fails after an interrupted one still has what was there before.
    fs::rename(&dir, &old).unwrap();
    let full = |folder: &Path| {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        Err(FileError::new("write", folder, full))
    };
    replace_dir_atomically(&dir, any, full).unwrap_err();
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"before");
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_stays_a_link() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("place");
    let link = root.path().join("link");
    fs::create_dir(&place).unwrap();
    std::os::unix::fs::symlink(&place, &link).unwrap();
    replace_dir_atomically(&link, any, fill_with(b"content")).unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(place.join("file")).unwrap(), b"content");
}
