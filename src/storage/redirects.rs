//! A `GET` through redirects, each judged before it is followed. Who asks says what is sent to which place.

use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Response, StatusCode};
use url::Url;

use super::SourceError;
use super::reach::{MOST_REDIRECTS, ReachPolicy};

/// Who asks, and where it may be led.
pub(super) struct Asker<'a> {
    /// Asks. It follows no redirects by itself.
    pub(super) client: &'a Client,
    /// Judges every place.
    pub(super) policy: &'a ReachPolicy,
    /// Who leads somewhere, for messages.
    pub(super) who: &'a str,
}

impl Asker<'_> {
    /// Sends a `GET` with the headers that are for each place; any status but a redirect is an answer.
    pub(super) async fn get(
        &self,
        url: &Url,
        headers: impl Fn(&Url) -> HeaderMap,
        broken: impl Fn(reqwest::Error) -> SourceError,
    ) -> Result<Response, SourceError> {
        let mut url = url.clone();
        self.policy.check(&url).map_err(|refused| SourceError::Denied(refused.to_string()))?;
        for _ in 0..=MOST_REDIRECTS {
            let request = self.client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
            let response = request.headers(headers(&url)).send().await.map_err(&broken)?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            url = self.next(&url, &response)?;
        }
        Err(SourceError::Invalid(format!("{} redirects more than {MOST_REDIRECTS} times", self.who)))
    }

    fn next(&self, from: &Url, response: &Response) -> Result<Url, SourceError> {
        let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let to = to.and_then(|to| from.join(to).ok()).filter(|to| matches!(to.scheme(), "http" | "https"));
        let to = to.ok_or_else(|| SourceError::Invalid(format!("{} redirects to no HTTP address", self.who)))?;
        let judged = self.policy.check_redirect(&to);
        judged.map_err(|refused| SourceError::Denied(format!("{} redirects elsewhere: {refused}", self.who)))?;
        Ok(to)
    }
}
