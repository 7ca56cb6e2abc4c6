#!/usr/bin/env python3
"""Finds code that rustc 1.95 compiles wrongly (rust-lang/rust#158206).

    compiler.py target/release/deps

In a release build the compiler takes `let is = x == CONST;` away where an `if is` can test `x` itself, also if `is` is
read in between, as in `count += usize::from(is); if is {`. What is read then is whatever was there before. In the
text of the compiler's middle representation that is a flag that is read and never written, and this looks for those,
in all crates: build with RUSTFLAGS=--emit=mir,link. It first shows that it finds one in a program that has one,
unless the compiler at hand is none of those that do so.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile

SAMPLE = """
pub struct Count { of: u64, count: usize }
impl Count {
    fn on(&mut self, of: u64) -> bool {
        let is_ours = of == self.of;
        self.count += usize::from(is_ours);
        is_ours
    }
}
fn main() {
    let mut count = Count { of: 7, count: 0 };
    assert!(count.on(7));
    println!("{}", count.count);
}
"""


def faults(path):
    """The functions of a file that read a flag which nobody writes, and how many have flags."""
    found, looked, name, body = [], 0, None, []

    def look():
        text = "".join(body)
        flags = re.findall(r"let (?:mut )?(_\d+): bool;", text)
        for flag in flags:
            is_read = re.search(r"(?:copy|move) %s\b" % flag, text)
            is_written = re.search(r"^\s+%s = |&(?:raw )?(?:mut |const )?%s\b" % (flag, flag), text, re.M)
            if is_read and not is_written:
                found.append("%s: %s" % (name, flag))
        return bool(flags)

    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line[:1].isalpha():
                looked += look()
                name, body = line.strip(), []
            body.append(line)
    return found, looked + look()


def has_fault(folder):
    """Does this compiler do it, and is it found then?"""
    source, program, mir = (os.path.join(folder, name) for name in ("sample.rs", "sample", "sample.mir"))
    with open(source, "w", encoding="utf-8") as file:
        file.write(SAMPLE)
    made = ["rustc", "-O", "--edition=2024", "--emit=link=%s,mir=%s" % (program, mir), source]
    subprocess.run(made, check=True)
    is_wrong = subprocess.run([program], capture_output=True, check=True).stdout != b"1\n"
    found, _ = faults(mir)
    if is_wrong and not found:
        sys.exit("FAILED  the program at hand is compiled wrongly, and that is not found")
    return bool(found)


def main():
    with tempfile.TemporaryDirectory() as folder:
        print("this compiler %s" % ("does it" if has_fault(folder) else "does not do it"))
    paths = sorted(glob.glob(os.path.join(sys.argv[1], "*.mir")))
    crates = {os.path.basename(path).rsplit("-", 1)[0] for path in paths}
    if not {"ringkeep", "uring"} <= crates:
        sys.exit("FAILED  no representation of ringkeep and uring in %s" % sys.argv[1])
    wrong, total = [], 0
    for path in paths:
        found, looked = faults(path)
        total += looked
        wrong += ["%s: %s" % (os.path.basename(path), fault) for fault in found]
    print("%d functions of %d crates have flags" % (total, len(crates)))
    for fault in wrong:
        print("FAILED  %s" % fault)
    print("%d passed, %d failed" % (not wrong, len(wrong)))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
