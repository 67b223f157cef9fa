use crate::pipeline::Output;
pub struct Settings {
    pub color: bool,
    pub title: String,
    pub zone: jiff::tz::TimeZone,
}
pub struct Tui;
impl Tui {
    pub fn open(_: Settings) -> std::io::Result<Self> {
        Ok(Self)
    }
    pub fn show(&mut self, _: &Output) {}
    pub async fn input(&mut self) -> std::io::Result<bool> {
        std::future::pending().await
    }
    pub fn draw_if_due(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    pub fn close(self) -> std::io::Result<()> {
        Ok(())
    }
}
