//! Configuration files: whatever is in one, it is taken or every problem is said.

use crate::config::{Sources, load};
use std::cell::RefCell;
use std::io::{Seek, Write};

thread_local! {
    static FILE: RefCell<tempfile::NamedTempFile> =
        RefCell::new(tempfile::NamedTempFile::new().expect("a file can be made"));
}

pub fn run(data: &[u8]) {
    FILE.with_borrow_mut(|file| {
        file.rewind().and_then(|()| file.as_file().set_len(0)).expect("the file is ours");
        file.write_all(data).and_then(|()| file.flush()).expect("there is room");
        match load(&Sources { file: Some(file.path()), ..Sources::default() }) {
            Ok(loaded) => assert!(!loaded.print(true).is_empty()),
            Err(problems) => assert!(!problems.to_string().is_empty()),
        }
    });
}
