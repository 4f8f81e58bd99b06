"""Words that captions, aligners and transcription guides describe sounds with, in many languages.

All are in lower case and without Latin accents.
"""

_WORDS = """
    bb eps fil fp hes lg ns nv sil sl sp spn spk usb nib gap blank pause unk oov pad unclear
    foreign overlap crosstalk static nies vent cri cris
    tos toux ris rires rit rie risas risa risos riso risata risate lacht lachen stille
    nhac tieng cisza szum ruch tosse brusio latter gulus gulusmeler oksuruk
    웃음 박수 음악 소음 침묵 기침 웃음소리 박수소리
    笑 笑い 拍手 音楽 無音 咳 雑音 音乐 笑声 掌声 噪音 静音 沉默 鼓掌 咳嗽 音樂 笑聲 掌聲
    ضحك تصفيق موسيقى ضوضاء صمت ضجيج
    हँसी हंसी तालियाँ तालियां संगीत शोर
"""
_BEGINNINGS = """
    laugh applau music noise silen cough sigh breath inaud unintel cheer chuckl clap gasp groan sob
    sneez sniff beep backgr indistinct mumbl scream whistl giggl snor yawn vocali nonspeech hesitat
    inhal exhal smack snicker footstep siren thunder chatter explosi gunsh growl whimper murmur
    gelachter applaus beifall musik gerausch rausch hust seufz atm unverst rausp klatsch
    rire applaud musique bruit silence touss soupir respir inaudib incompr chuchot
    aplaus musica ruid silenci suspir ininteli rumor silenz toss sospir gelach muziek gelui stilte
    hoest smiech oklask muzyk skratt applad alkis muzik gurult sessiz kahkaha
    смех смеет аплод музык шум тишин кашел кашл вздо вздых неразб оплес музик тиша
"""
_SOURCES = """
    door slam phone ring bell knock bark dog engine horn hum buzz yell shout whisper cry crie bird
    click close closing open
"""
_MODIFIERS = """
    soft softly loud loudly audience background continues playing plays faint faintly end start
    no speech in long short heavy heavily nervous nervously quietly deep deeply slightly clears
    throat language speaking words
"""

SOUND_WORDS = frozenset(_WORDS.split())
# A word with one of these beginnings: `laughs`, `laughter`, `laughing`.
SOUND_BEGINNINGS = tuple(_BEGINNINGS.split())
# Words that are sounds as verbs, or beside another: `phone rings`, but not `phone`.
SOURCE_BEGINNINGS = tuple(_SOURCES.split())
# Words that stand beside them: `soft music playing`.
MODIFIERS = frozenset(_MODIFIERS.split())
