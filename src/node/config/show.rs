//! What `ringkeep config` prints.

use super::{Given, Origin, Resolved, table::SETTINGS};

impl Resolved {
    /// Every setting, and where it comes from if that is wanted.
    pub fn show(&self, with_origin: bool) -> String {
        let mut lines = String::new();
        for setting in SETTINGS {
            let given = self.given.get(setting.name);
            let text = given.map_or(setting.default, |given| &given.text);
            let text = match setting.is_secret && !text.is_empty() {
                true => "***",
                false => text,
            };
            let line = format!("{} = {text}", setting.name);
            match with_origin {
                true => {
                    let origin = self.origin(given, setting.place);
                    lines += &format!("{line:<48}  {origin}\n");
                }
                false => lines += &format!("{line}\n"),
            }
        }
        lines
    }

    fn origin(&self, given: Option<&Given>, (section, key): (&str, &str)) -> String {
        let file = self.options.config.as_ref();
        let path = file.map(|file| file.path.display().to_string());
        match given.map(|given| &given.origin) {
            None => "default".into(),
            Some(Origin::Kevy) => "default of kevy".into(),
            Some(Origin::File(line)) => {
                format!(
                    "{} line {line}, [{section}] {key}",
                    path.unwrap_or_default()
                )
            }
            Some(Origin::Variable(name)) => format!("environment, {name}"),
            Some(Origin::Flag) => "command line".into(),
        }
    }

    /// That the settings are good, and what is left out of them.
    pub fn report(&self) -> String {
        let from = |origin: fn(&Origin) -> bool| {
            let given = self.given.values();
            given.filter(|given| origin(&given.origin)).count()
        };
        let mut lines = self.options.notes.join("\n");
        if !lines.is_empty() {
            lines += "\n";
        }
        let told = match &self.options.config {
            None => "no file: the settings are good".to_string(),
            Some(file) => format!(
                "{}: good, {} setting(s){}",
                file.path.display(),
                from(|origin| matches!(origin, Origin::File(_))),
                match file.is_kevy {
                    true => ", kevy's defaults for what it leaves out",
                    false => "",
                }
            ),
        };
        lines + &told + "\n"
    }
}
