"""Word lists of the filters: function words by language, what sites say of themselves, and the printers' Latin."""

from __future__ import annotations

import re
from collections import defaultdict

# The most frequent words that hold sentences together, without those that menus are made of ("about", "my", "more").
_BY_LANGUAGE = {
    "ar": "في من على أن إلى عن التي الذي هذا هذه كان لا ما مع أو قد كما بعد ذلك و لم كل بين وكان فيه إليه به له",
    "bg": "и на в за да се от с по не че е са като до при или но това беше",
    "bn": "এবং ও একটা একটি এই সে তার করে ছিল থেকে না আর কেউ তখন হলে হয় যে কি জন্য সঙ্গে পর্যন্ত আমরা আমাদের",
    "ca": "de la el i els les un una que del per amb no es en al són va com seva més si o",
    "cs": "v se na je že s z do i k ve pro za by ale si po jako jsou od nebo který jsem byl už a když ji jí tak",
    "cy": "y yr yn a i o ar ei oedd wedi bod am gan fod nad er un ac roedd",
    "da": "og i at det er en til på som for den med de af ikke der var et har om fra vi kan men sig han også eller jeg",
    "de": "der die das und in zu den von mit ist im für auf nicht ein eine einer dem des sich als auch es an werden"
    " aus er"
    " hat dass sie nach wird bei am sind noch wie einem so war haben nur oder aber vor zum zur bis durch man wir"
    " ich wenn",
    "el": "και το να του η της με την για από ο που είναι στο τα σε οι θα δεν στην τον όταν είχε ως",
    "en": "the of and to in a is that for it as was with be by on not he his from at are this but have an they"
    " which or you"
    " had we their has were been will would can who if do there so when into than its how any as each must should these"
    " those where while then only such between through before because could some did i she her me him them does may",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como o pero sus le ha me si sin"
    " sobre este"
    " ya entre cuando esta ser son fue había era",
    "fa": "در به از که این را با است برای آن می یا خود هم تا بود و بر ما شد",
    "fi": "ja on ei että se oli hän ovat mutta kun niin myös joka tai kuin jos ole sen jonka me vaikka kunnes eikä"
    " sitä",
    "fr": "de la le et les des en un une du que est pour qui dans par plus pas au sur ne se ce il sont avec aux son"
    " cette ou"
    " mais comme nous vous je elle leur ont être sa ses si l d on a y quand avait était qu",
    "he": "את על לא זה הוא עם כי גם או היא אל כל אם אני של היה הם לנו מהם היינו שכן לפני",
    "hi": "के में की है और से का को पर ने कि यह एक हैं भी इस नहीं हो था थे वह जो तो लेकिन अब हर",
    "hr": "i u je na se da za od s su ne koji a što kao ili ali iz sam bi po",
    "hu": "a az és hogy nem is egy van de ez meg volt csak ha mint már azt el vagy ott aki senki",
    "id": "yang dan di dari untuk dengan ini dalam pada tidak itu ke akan adalah oleh juga atau ada bisa kami tak"
    " sudah",
    "it": "di e il la che in un a per è una sono non con si da come del le dei i gli al della nel anche o ma alla"
    " lo se ci"
    " questo ha dal l d",
    "nl": "de het een van en in is dat op te zijn met voor niet aan er om ook als dan maar bij of uit nog naar door"
    " over ze"
    " zij hij wordt worden heeft had kan ik we",
    "no": "og i at det er en til på som for den med de av ikke der var et har om fra vi kan men seg han også eller jeg",
    "pl": "i w na z do się nie to że jest o od po jak za ale a co dla przez tak są tym przy był który już czy lub"
    " aby ją",
    "pt": "de a o que e do da em um para é com não uma os no se na por as dos como mas foi ao ele das tem à seu sua"
    " ou ser"
    " quando há nos já eu também só pelo pela até isso",
    "ro": "de și în a la cu care pe un o nu din este pentru că mai se ca sau fi sunt au ce al ale",
    "ru": "и в не на с что по как это к из за для от но у он так то же а все его был о до бы или мы если при вы я"
    " её ещё нам",
    "sk": "a v sa na je že s z do i k vo pre za by ale si po ako sú od alebo ktorý som bol",
    "sl": "in je v na se da za so ki ne s z pa ali kot bi po tudi iz od",
    "sr": "и у је на се да за од с су не који а што као или али из сам би по",
    "sv": "och i att det som en på är av för med den till inte har de om ett han men var sig så från vi kan man när"
    " också"
    " eller jag du",
    "sw": "ya na wa kwa ni katika la za kuwa hiyo cha yake hadi au kama lakini bado tu wetu hivyo",
    "ta": "ஒரு என்று இந்த அந்த ஆனால் மற்றும் இருந்தது இல்லை எங்கள் நாங்கள் அவர் என எந்த இப்போது அங்கே",
    "tr": "ve bir bu da de için ile çok olarak daha olan gibi ne kadar sonra ama en o ya her hiç mı mi",
    "uk": "і в на не що з та у до як це за для від але є а його або ж по коли й аж ще",
    "vi": "và của là có cho không được các với trong một những này đã người để khi từ đến cũng như thì mà nhưng bên",
}


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


def _languages_of_words() -> dict[str, tuple[str, ...]]:
    languages: defaultdict[str, list[str]] = defaultdict(list)
    for language, words in _BY_LANGUAGE.items():
        for word in dict.fromkeys(words.split()):
            languages[word].append(language)
    return {word: tuple(found) for word, found in languages.items()}


FUNCTION_WORDS = _languages_of_words()  # word in small letters -> the languages it holds together

# Of Chinese (old and new, Cantonese too), Japanese and Korean: particles, pronouns, and endings of verbs.
FUNCTION_CHARACTERS = frozenset(
    "的了是在不有這这也而之以與与你很著从從那什么麼被把让讓嘅咗喺唔係佢啲咁冇乜哋嚟"
    "のはをにがでとたてるもやへよねだれ"
    "은는을를의에다며습니까했"
)

# What sites say of themselves, in small letters. A sentence about cookies or missing pages has none of them.
_NOTICES = (
    # cookies and consent
    r"(?:uses?|using|use of|accept(?:ing)?|allow|reject|manage|necessary|essential|preference|statistics|marketing"
    r"|all|your)"
    r" (?:of )?(?:(?:all|the|necessary|essential|optional|third[- ]party|tracking|analytics) )*cookies?\b",
    r"cookie[- ](?:policy|settings|preferences|notice|consent|banner|bot)|cookiebot",
    r"\b(?:accept|reject|allow|decline) all\b|manage (?:preferences|options|consent)|allow selection|more options",
    r"value your privacy|our \d+ partners|personali[sz]ed (?:ads|advertising)|click \W?i agree|with your permission we",
    r"(?:store|storing).{0,40}on (?:a|your) device|withdraw your consent|legitimate interest",
    r"verwende[nt] cookies|(?:nutzt|nutzen|setzt|setzen) cookies|cookie-einstellungen|(?:notwendige|alle) cookies"
    r"|(?:verwendung|einsatz) (?:aller|von) cookies|alle akzeptieren|alle ablehnen|unserer? datenschutzerklärung",
    r"utilis(?:e|ons) des cookies|tous les cookies|tout (?:accepter|refuser)|paramétrer les cookies|politique de"
    r" confidentialité|utilisation (?:des|de tous les|de) cookies|vos préférences",
    r"(?:utiliza(?:mos)?|usamos|usa) (?:las )?cookies|todas las cookies|política de (?:cookies|privacidad)|configurar"
    r" (?:las )?cookies|aceptar tod[ao]s|rechazar(?:las)?\W*$|política de privacidade|(?:utilizziamo|utilizza) (?:i"
    r" )?cookie"
    r"|accetta tutt[io]|gebruik(?:t|en) (?:van )?cookies|(?:używa|korzysta z) (?:plików )?cookies|pliki cookie"
    r"|использу(?:ет|ем) (?:файлы )?cookie|файлы cookie|使用 ?cookie|クッキーを使用|쿠키를 사용",
    # scripts, browsers and robots
    r"(?:enable|turn on|activate|requires?|need) (?:javascript|cookies|scripts)|javascript (?:is|must be|has been"
    r"|appears to"
    r" be|and cookies) .{0,20}(?:disabled|enabled|required|blocked)|javascript is (?:disabled|required)|without"
    r" javascript"
    r"|(?:browser|version) (?:is|appears to be) (?:out of date|outdated|not supported|no longer supported)"
    r"|(?:upgrade|update|in) your browser|unsupported browser|javascript (?:aktivieren|ist deaktiviert)|activer"
    r" javascript"
    r"|activ(?:ar|e) javascript|включите javascript|启用 ?javascript|javascriptを有効",
    r"checking your browser|checking if the site|just a moment|ddos protection|ray id|performance & security by"
    r"|redirect(?:ed)? (?:to your requested|automatically|shortly)|please allow up to|process is automatic"
    r"|please (?:wait|stand by) while",
    r"(?:verify|prove|confirm) (?:that )?you(?:'re| are) (?:a )?(?:human|not a robot)|complete the (?:captcha"
    r"|security check)"
    r"|not a robot|automat(?:ed|ion) (?:tools|access|queries)|unusual traffic|your browser does not support|are you"
    r" a robot",
    r"access (?:denied|to this (?:page|site) (?:has been )?(?:denied|blocked))|don't have permission to (?:access|view)"
    r"|if you (?:believe|think) (?:that )?this is an error|contact the (?:site |web ?site )?(?:administrator|owner)"
    r"|contact (?:support|your hosting provider)|^\W*reference #",
    # pages that are not there
    r"page (?:not found|introuvable)|(?:page|article|content|site) (?:that )?you (?:are|were|'re|requested|have"
    r" requested)"
    r"|(?:page|article) (?:that )?you(?:'re| are| were) (?:looking|trying)|(?:page|content|article|product|item"
    r"|listing) (?:is|has"
    r" been|was|may have been|might have been|no longer) (?:no longer |not )?(?:available|removed|moved|deleted"
    r"|found|expired"
    r"|exists?)|page (?:can't|cannot|could not|does not|doesn't) (?:be found|exist)|nothing (?:was )?found (?:at|here)"
    r"|may have been (?:moved|removed|renamed|deleted)|(?:had|has) its name changed|temporarily unavailable"
    r"|error 40[34]|40[34] error|^\W*40[34]\W*$|http 40[34]|go (?:back )?to (?:the )?home ?page|(?:return|go back)"
    r" to the"
    r" (?:home ?page|previous page)|return to the home|back to home|use the search|check the (?:address|url|spelling)"
    r"|one of the links below|^\W*oops|^\W*recent posts|most used categories|monthly archives|^\W*archives\W*$",
    r"seite (?:nicht gefunden|wurde nicht|existiert nicht|konnte nicht)|angeforderte seite|zur startseite|fehler 404"
    r"|gesuchte seite|nutzen sie auch unsere suche|page (?:que vous|demandée)|page d'accueil|erreur 404|moteur de"
    r" recherche"
    r"|adresse saisie|página (?:no encontrada|que (?:busca|está buscando)|não encontrada)|error 404|erro 404"
    r"|página de inicio|pagina non trovata|pagina niet gevonden|nie znaleziono strony|strona nie istnieje"
    r"|страница не найдена|ошибка 404|на главную|页面不存在|找不到(?:该|您|頁|页)|页面未找到|返回首页"
    r"|ページが見つかりません"
    r"|お探しのページ|페이지를 찾을 수 없",
    r"apologi[sz]e for (?:the|any) inconvenience|sorry for the inconvenience|browse our other|no longer available",
    # domains and servers without a site
    r"(?:this|the|your) domain (?:name )?(?:is|has|may be|was)|buy (?:this|the) domain|is this your domain|domain"
    r" (?:is )?for sale"
    r"|owner of this (?:domain|website|web site)|inquire about this|parking service|(?:is )?parked (?:free|by)"
    r"|courtesy of"
    r"|domain owner|backorder|make an offer|interested in this domain|related (?:searches|links)|turn it into a website"
    r"|diese domain|domain kaufen|ce (?:nom de )?domaine est|este dominio|домен (?:продается|продаётся|припаркован)"
    r"|域名出售",
    r"web server is successfully|welcome to nginx|default (?:welcome |web )?page|further configuration is required"
    r"|installed at this site|replace this file|online documentation and support please|thank you for using nginx"
    r"|if you (?:see|can read) this page|apache2? (?:ubuntu|debian) default|index of /",
    r"account has been suspended|reactivate this account|control panel|hosting provider|website is (?:offline"
    r"|suspended)",
    r"(?:scheduled|undergoing|under) maintenance|check back (?:later|soon)|be back (?:online |soon|shortly)|coming soon"
    r"|under construction|launch(?:ing)? (?:our|soon)|stay tuned|notify me when|^\W*(?:the team|days hours"
    r" minutes).{0,20}$"
    r"|im aufbau|wartungsarbeiten|en construction|en construcción|em construção|на реконструкции|网站建设中"
    r"|準備中|工事中",
    # doors
    r"(?:must|need to|have to) (?:be logged|log|sign|register|subscribe)|please (?:log|sign) in|(?:log|sign) in"
    r" (?:with|to"
    r" continue|or register)|forgot (?:your )?password|don't have an account|sign up (?:now|for)|remember me"
    r"|^\W*(?:username"
    r"|password)\W*$|already have an account|create an account|subscribe (?:to|now)|^\W*subscribe\W*$|unsubscribe"
    r" at any"
    r"|enter your e-?mail|delivered to your inbox|by subscribing|follow us on|your ad ?blocker|using an ad ?blocker"
    r"|displaying ads|anmelden um|bitte melden sie sich an|abonnez-vous|suscríbete",
    r"all rights reserved|alle rechte vorbehalten|tous droits réservés|todos los derechos|terms (?:of|and) (?:use"
    r"|service"
    r"|conditions)|privacy policy|do not sell|without (?:prior )?(?:written )?permission|acceptance of our|constitutes"
    r" acceptance|版权所有|all trademarks",
    # pages that nobody filled in
    r"welcome to wordpress|this is your first post|edit or delete it|^\W*(?:hello world|uncategorized)\W*$|thought"
    r" on \W?hello"
    r"|wordpress commenter|get started with moderating|hi, this is a comment|just another wordpress|sample page"
    r"|(?:your|add (?:a )?) ?(?:heading|title|text|headline|content) here|(?:add|insert|replace|edit) (?:your"
    r"|this)(?: own)?"
    r" (?:text|content|paragraph)|click (?:here )?to edit|(?:is a )?(?:sample|placeholder|dummy) (?:text|paragraph"
    r"|content)"
    r"|your own (?:text|content)",
)
# In Latin letters they begin where a word does, which is looked at first: the search takes a twentieth of the time.
NOTICES = re.compile(rf"(?:(?<![a-z])|(?![a-z]))(?:{'|'.join(_NOTICES)})", re.MULTILINE)

# Of what notices speak: a text with few of these words has no need to be searched for their sentences.
NOTICE_WORDS = _words(
    "cookie cookies consent partners device preferences privacy javascript scripts browser page site website web server"
    " domain account login log logged sign password username subscribe newsletter captcha robot human access denied"
    " error"
    " content article available maintenance construction soon wordpress post heading text blocker ad ads rights"
    " reserved"
    " terms copyright http accept reject seite suche adresse akzeptieren datenschutzerklärung einstellungen startseite"
    " fehler site accueil recherche page introuvable erreur accepter refuser confidentialité página politica política"
    " aceptar rechazar dominio pagina strona strony сайт страница домен ошибка файлы"
)

# Words that "lorem ipsum" and its generators write, and that Latin and the Romance languages seldom have.
PLACEHOLDER_WORDS = _words(
    "lorem ipsum amet consectetur consectetuer adipiscing eiusmod incididunt labore dolore aliqua aliquam veniam"
    " nostrud exercitation ullamco laboris aliquip commodo consequat irure reprehenderit voluptate velit cillum fugiat"
    " pariatur excepteur occaecat cupidatat proident deserunt mollit laborum vestibulum curabitur pellentesque"
    " sollicitudin tincidunt vulputate malesuada faucibus ultrices ultricies sagittis scelerisque condimentum dignissim"
    " euismod facilisis fermentum fringilla hendrerit imperdiet lacinia laoreet ligula lobortis"
    " maecenas mattis mauris morbi nullam ornare pharetra placerat porttitor posuere"
    " praesent proin pulvinar quisque rhoncus rutrum sodales suscipit suspendisse tortor tristique"
    " turpis varius vehicula venenatis vivamus viverra volutpat phasellus cubilia curae senectus egestas"
    " bibendum congue convallis dapibus dictumst efficitur feugiat gravida habitasse iaculis"
    " nibh nisl platea perspiciatis voluptatem accusantium doloremque"
    " laudantium totam aperiam eaque architecto beatae explicabo ipsam voluptas aspernatur fugit"
    " consequuntur magni dolores ratione sequi nesciunt"
)
