//! Where the hub and its cache folder are, by the names that the hub's own tools give these settings.

use std::fmt;
use std::path::{Path, PathBuf};

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";

/// Settings of the hub. The program reads its environment into them; a library has none.
#[derive(Clone)]
pub struct HubSettings {
    /// The cache folder, which holds `models--ORG--NAME`.
    pub cache: PathBuf,
    /// Without a slash at the end.
    pub endpoint: String,
    pub token: Option<String>,
    /// A file that holds the token where `token` does not: a login leaves it there.
    pub token_file: Option<PathBuf>,
    /// Whether nothing may be downloaded.
    pub offline: bool,
    /// The proxy for all requests, such as `http://proxy:3128`.
    pub proxy: Option<String>,
}

impl HubSettings {
    /// The hub's public address, this cache folder, no token.
    pub fn new(cache: &Path) -> Self {
        Self {
            cache: cache.to_owned(),
            endpoint: ENDPOINT.into(),
            token: None,
            token_file: None,
            offline: false,
            proxy: None,
        }
    }

    /// By the variables of the hub's own tools, which `variable` looks up.
    ///
    /// | variable | says |
    /// |---|---|
    /// | `HF_HUB_CACHE` | the cache folder; without it `hub` in `HF_HOME` |
    /// | `HF_HOME` | without it `huggingface` in `XDG_CACHE_HOME`, or else in `HOME`'s `.cache` |
    /// | `HF_ENDPOINT` | another hub |
    /// | `HF_TOKEN` | the token; without it what `HF_TOKEN_PATH`, or `token` in `HF_HOME`, holds |
    /// | `HF_HUB_OFFLINE` | `1`, `true`, `yes` or `on`: download nothing |
    /// | `HTTPS_PROXY`, `ALL_PROXY` | the proxy, in small letters too |
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        let caches = || path("XDG_CACHE_HOME").or_else(|| path("HOME").map(|home| home.join(".cache")));
        let home = path("HF_HOME").or_else(|| caches().map(|caches| caches.join("huggingface")));
        let home = home.unwrap_or_else(|| PathBuf::from(".huggingface"));
        let on = |value: String| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str());
        let proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().find_map(get);
        Self {
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            endpoint: get("HF_ENDPOINT")
                .map_or_else(|| ENDPOINT.into(), |e| e.trim_end_matches('/').to_owned()),
            token: get("HF_TOKEN").map(|token| token.trim().to_owned()),
            token_file: path("HF_TOKEN_PATH").or_else(|| Some(home.join("token"))),
            offline: get("HF_HUB_OFFLINE").is_some_and(on),
            proxy,
        }
    }

    /// The token, wherever it is.
    pub(super) fn find_token(&self) -> Option<String> {
        let from_file = || {
            let text = std::fs::read_to_string(self.token_file.as_ref()?).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        };
        self.token.clone().or_else(from_file)
    }
}

impl fmt::Debug for HubSettings {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cache, endpoint, offline, .. } = self;
        write!(f, "HubSettings {{ cache: {cache:?}, endpoint: {endpoint:?}, offline: {offline} }}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_variables(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_mean_what_they_mean_to_the_hubs_own_tools() {
        let plain = from(&[("HOME", "/h")]);
        assert_eq!(plain.cache, Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(plain.token_file.as_deref(), Some(Path::new("/h/.cache/huggingface/token")));
        assert_eq!((plain.endpoint.as_str(), plain.offline, plain.token), (ENDPOINT, false, None));
        assert_eq!(from(&[("HOME", "/h"), ("HF_HOME", "/f")]).cache, Path::new("/f/hub"));
        assert_eq!(from(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]).cache, Path::new("/c"));
        let all =
            from(&[("HF_ENDPOINT", "http://mirror/"), ("HF_TOKEN", "hf_x\n"), ("HF_HUB_OFFLINE", "True")]);
        assert_eq!(
            (all.endpoint.as_str(), all.token.as_deref(), all.offline),
            ("http://mirror", Some("hf_x"), true)
        );
        assert!(!format!("{all:?}").contains("hf_x"), "a token is never shown");
        assert!(!from(&[("HF_HUB_OFFLINE", "0")]).offline);
    }
}
