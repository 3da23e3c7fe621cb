//! Settings from their sources: each is checked where it was said, so that an error can say where.
//!
//! What is known, and of which form, is asked of [`Config`] itself, by way of its defaults: there
//! is no second list.

use std::path::Path;

use serde::Deserialize as _;
use toml::{Table, Value};

use super::{Config, ConfigError, OTHER_VARIABLES, Rule, Source};

/// What begins the name of a variable that is a setting.
const PREFIX: &str = "IPDC_";

/// The one setting that is a table: of rules, by whom they are for.
const RULES: [&str; 2] = ["policy", "owners"];

/// The settings by `variables`, else by the file `path` that holds `text`, else by default.
pub(super) fn config(
    path: &Path,
    text: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut layers = Layers::new();
    layers.add_file(path, text)?;
    layers.add_variables(variables)?;
    Ok(layers.config)
}

struct Layers {
    /// All settings with the values they have so far.
    settings: Table,
    /// The same.
    config: Config,
}

impl Layers {
    fn new() -> Self {
        let config = Config::default();
        let settings = Table::try_from(&config).expect("the default settings can be written");
        Layers { settings, config }
    }

    fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let file: Table = toml::from_str(text).map_err(|error| ConfigError::Form {
            at: Source::Line(path.to_owned(), line_at(text, error.span().map(|span| span.start))),
            message: error.message().to_owned(),
        })?;
        for (section, settings) in file {
            let at = |key: &[&str]| Source::Line(path.to_owned(), line_of(text, key));
            match settings {
                Value::Table(settings) if self.settings.contains_key(&section) => {
                    for (name, value) in settings {
                        let key = [section.as_str(), &name];
                        if key == RULES {
                            check_rules(path, text, &value)?;
                        }
                        self.set(&section, &name, value, at(&key))?;
                    }
                }
                _ => return Err(self.unknown(&section, at(&[&section]))),
            }
        }
        Ok(())
    }

    fn add_variables(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (variable, text) in variables {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            if OTHER_VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            let at = Source::Variable(variable.clone());
            let name = name.to_ascii_lowercase();
            let Some((section, name)) = name.split_once('_') else {
                return Err(self.unknown(&name, at));
            };
            let form = self.settings.get(section).and_then(|section| section.get(name));
            let value = match form {
                Some(Value::Array(_)) => {
                    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                    Value::Array(parts.map(Value::from).collect())
                }
                Some(Value::Integer(_)) => {
                    text.trim().parse().map_or_else(|_| Value::from(text.as_str()), Value::Integer)
                }
                Some(Value::Boolean(_)) => {
                    text.trim().parse().map_or_else(|_| Value::from(text.as_str()), Value::Boolean)
                }
                _ => Value::String(text),
            };
            self.set(section, name, value, at)?;
        }
        Ok(())
    }

    fn set(
        &mut self,
        section: &str,
        name: &str,
        value: Value,
        at: Source,
    ) -> Result<(), ConfigError> {
        let key = format!("{section}.{name}");
        let place = self.settings.get_mut(section).and_then(|section| section.get_mut(name));
        let Some(place) = place else {
            return Err(self.unknown(&key, at));
        };
        *place = value;
        let message = |error: toml::de::Error| error.message().to_owned();
        self.config = Config::deserialize(self.settings.clone())
            .map_err(|error| ConfigError::Wrong { at, key, message: message(error) })?;
        Ok(())
    }

    fn unknown(&self, key: &str, at: Source) -> ConfigError {
        let nearest = self.keys().max_by(|a, b| likeness(key, a).total_cmp(&likeness(key, b)));
        let nearest = nearest.expect("there are settings");
        let nearest = match &at {
            Source::Line(..) => nearest,
            Source::Variable(_) => PREFIX.to_owned() + &nearest.replace('.', "_").to_uppercase(),
        };
        ConfigError::Unknown { at, key: key.to_owned(), nearest }
    }

    /// All settings, as `section.name`.
    fn keys(&self) -> impl Iterator<Item = String> {
        self.settings.iter().flat_map(|(section, settings)| {
            let names = settings.as_table().into_iter().flat_map(Table::keys);
            names.map(move |name| format!("{section}.{name}"))
        })
    }
}

/// Whether what a file says of single owners can be used; if not, where it cannot.
fn check_rules(path: &Path, text: &str, rules: &Value) -> Result<(), ConfigError> {
    let known = Table::try_from(Rule::whole()).expect("a whole rule can be written");
    let [section, rules_name] = RULES;
    for (owner, rule) in rules.as_table().into_iter().flatten() {
        let place = |names: &[&str]| {
            let names = [&[section, rules_name, owner], names].concat();
            (Source::Line(path.to_owned(), line_of(text, &names)), names.join("."))
        };
        let check = |said: Value, names: &[&str]| {
            Rule::deserialize(said).map(drop).map_err(|error| {
                let (at, key) = place(names);
                ConfigError::Wrong { at, key, message: error.message().to_owned() }
            })
        };
        let Some(settings) = rule.as_table() else {
            check(rule.clone(), &[])?;
            continue;
        };
        for (name, value) in settings {
            if !known.contains_key(name) {
                let alike = |known: &&String| likeness(name, known);
                let nearest = known.keys().max_by(|a, b| alike(a).total_cmp(&alike(b)));
                let nearest = nearest.expect("a rule has settings").clone();
                let (at, key) = place(&[name]);
                return Err(ConfigError::Unknown { at, key, nearest });
            }
            let alone = Table::from_iter([(name.clone(), value.clone())]);
            check(alone.into(), &[name])?;
        }
    }
    Ok(())
}

/// How near `key` comes to `known`, whole or by its last part alone: the section may be missing.
fn likeness(key: &str, known: &str) -> f64 {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let whole = strsim::normalized_damerau_levenshtein(key, known);
    let part = strsim::normalized_damerau_levenshtein(&last(key), &last(known));
    whole.max(part) + whole / 100.0
}

/// The line, from 1, of this byte.
fn line_at(text: &str, byte: Option<usize>) -> usize {
    let before = byte.and_then(|byte| text.get(..byte)).unwrap_or_default();
    before.matches('\n').count() + 1
}

/// The line, from 1, on which the setting with these names is, from its section's on.
fn line_of(text: &str, names: &[&str]) -> usize {
    let start = || {
        let file = toml::de::DeTable::parse(text).ok()?.into_inner();
        let mut table = &file;
        let mut found = None;
        for name in names {
            let (key, value) = table.get_key_value(*name)?;
            found = Some(key.span().start);
            match value.get_ref().as_table() {
                Some(inner) => table = inner,
                None => break,
            }
        }
        found
    };
    line_at(text, start())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{DEFAULT_TOML, Flags, Size};
    use super::*;

    const PATH: &str = "/home/me/ipdc.toml";

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let owned = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        config(Path::new(PATH), text, owned)
    }

    fn refusal(text: &str, variables: &[(&str, &str)]) -> String {
        load(text, variables).unwrap_err().to_string()
    }

    /// The default file with its settings in force: what is commented out without a space.
    fn uncommented() -> String {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => setting.to_owned(),
            _ => line.to_owned(),
        };
        DEFAULT_TOML.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_file_of_a_new_home_says_every_default() {
        assert_eq!(load(DEFAULT_TOML, &[]).unwrap(), Config::default());
        let said: Table = toml::from_str(&uncommented()).unwrap();
        assert_eq!(said, Layers::new().settings);
    }

    #[test]
    fn a_flag_outranks_a_variable_and_that_the_file() {
        let file =
            "[mqtt]\nlisten = \"127.0.0.1:1\"\n[http]\nlisten = \"127.0.0.1:1\"\n[node]\nslots = 1";
        let variables = [("IPDC_MQTT_LISTEN", "127.0.0.1:2"), ("IPDC_HTTP_LISTEN", "127.0.0.1:2")];
        let flags = Flags { mqtt: Some("127.0.0.1:3".parse().unwrap()), ..Flags::default() };
        let config = load(file, &variables).unwrap().over(flags);
        let ports = [config.mqtt.listen.port(), config.http.listen.port()];
        assert_eq!((ports, config.node.slots), ([3, 2], Some(1)));
    }

    #[test]
    fn variables_are_read_in_the_form_of_their_settings() {
        let variables = [
            ("IPDC_NODE_LABELS", "gpu, site=paris"),
            ("IPDC_NODE_OWNER", "42"),
            ("IPDC_NODE_SLOTS", "3"),
            ("IPDC_BLOCKS_LOW_WATER", "1.5 GiB"),
            ("IPDC_POLICY_MEMBERS", ""),
            ("IPDC_MQTT_ANONYMOUS", "true"),
            ("IPDC_HOME", "/x"),
            ("IPDC_LOG", "debug"),
            ("PATH", "/bin"),
        ];
        let config = load("", &variables).unwrap();
        assert_eq!(config.node.labels, ["gpu", "site=paris"]);
        assert_eq!(config.node.owner, "42");
        assert_eq!(config.node.slots, Some(3));
        assert_eq!(config.blocks.low_water, Size(3 << 29));
        assert!(config.policy.members.is_empty());
        assert!(config.mqtt.anonymous);
    }

    #[test]
    fn an_unknown_setting_is_refused_where_it_stands_with_the_nearest_known() {
        for (text, line, key, nearest) in [
            ("\n[mqtt]\n\nlistne = \"x\"", 4, "mqtt.listne", "mqtt.listen"),
            ("[node]\n\nlabel = []", 3, "node.label", "node.labels"),
            ("[swarm]\n[mqt]\nlisten = 1", 2, "mqt", "mqtt.listen"),
            ("liste = []", 1, "liste", "swarm.listen"),
            ("mqtt.web.socket = 1", 1, "mqtt.web", "mqtt.websocket"),
        ] {
            let said = refusal(text, &[]);
            assert!(said.starts_with(&format!("{PATH}:{line}: ")), "{said}");
            assert!(said.contains(&format!("`{key}`")), "{said}");
            let known = said.rsplit('`').nth(1).unwrap();
            let (section, name) = nearest.split_once('.').unwrap();
            assert!(known == nearest || (section != "mqtt" && known.ends_with(name)), "{said}");
        }
        let said = refusal("", &[("IPDC_MQTT_LISTENS", "x")]);
        assert!(
            said.contains("IPDC_MQTT_LISTENS") && said.contains("`IPDC_MQTT_LISTEN`"),
            "{said}"
        );
        assert!(refusal("", &[("IPDC_MQTT", "x")]).contains("IPDC_MQTT_"), "no section alone");
    }

    #[test]
    fn a_wrong_value_is_refused_with_what_was_expected() {
        for (text, key, expected) in [
            ("[mqtt]\nlisten = 1883", "mqtt.listen", "socket address"),
            ("[mqtt]\nlisten = \"localhost\"", "mqtt.listen", "socket address"),
            ("[mqtt]\nwebsocket = \"here\"", "mqtt.websocket", "socket address"),
            ("[node]\nslots = -1", "node.slots", "u32"),
            ("[node]\nlabels = \"gpu\"", "node.labels", "sequence"),
            ("[blocks]\ncache = \"lots\"", "blocks.cache", "64 KiB"),
            ("[blocks]\nstall = \"20\"", "blocks.stall", "20s"),
            ("[policy]\nmembers = [\"wasn\"]", "policy.members", "wasm"),
        ] {
            let said = refusal(text, &[]);
            assert!(said.starts_with(&format!("{PATH}:2: `{key}`")), "{said}");
            assert!(said.contains(expected), "{said}");
        }
        let said = refusal("", &[("IPDC_NODE_SLOTS", "many")]);
        assert!(said.contains("IPDC_NODE_SLOTS") && said.contains("u32"), "{said}");
    }

    #[test]
    fn the_terms_of_an_owner_are_read_and_what_they_cannot_say_is_refused_where_it_stands() {
        let text = "[policy]\nslots = 4\n[policy.owners.ann]\nmemory = \"1 GiB\"\ntime = \"1h\"\n\
                    hours = \"22:00-07:00\"\nidle = true\nruntimes = [\"container\"]";
        let policy = load(text, &[]).unwrap().policy;
        let ann = &policy.owners["ann"];
        assert_eq!((policy.slots, ann.slots, ann.memory), (Some(4), None, Some(Size::GIB)));
        assert_eq!(ann.time, Some(std::time::Duration::from_secs(3600)));
        for (line, said) in [
            ("slot = 1", "`policy.owners.ann.slot`; the nearest is `slots`"),
            ("mem = 1", "`policy.owners.ann.mem`; the nearest is `memory`"),
            ("hours = \"late\"", "`policy.owners.ann.hours` cannot be this: `late` are no hours"),
            ("runtimes = [\"wasn\"]", "wasm"),
            ("time = 5", "`policy.owners.ann.time`"),
        ] {
            let refused = refusal(&format!("[policy.owners.ann]\nidle = true\n{line}"), &[]);
            assert!(refused.starts_with(&format!("{PATH}:3: ")), "{refused}");
            assert!(refused.contains(said), "{refused}");
        }
        let refused = refusal("[policy.owners]\nann = 1", &[]);
        assert!(refused.starts_with(&format!("{PATH}:2: `policy.owners.ann`")), "{refused}");
        assert!(refusal("", &[("IPDC_POLICY_OWNERS", "ann")]).contains("IPDC_POLICY_OWNERS"));
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_where_it_breaks() {
        let said = refusal("[node]\nslots = 1\nowner = \"me", &[]);
        assert!(said.starts_with(&format!("{PATH}:3: ")), "{said}");
    }
}
